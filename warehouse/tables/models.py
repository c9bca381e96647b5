"""Which dense models the warehouse knows, at which revision, with which hashes.

Sizes are counted from the loaded weights, not read from the config.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c


def _count(name: str, doc: str, unit: str = "") -> Column:
    return Column(name, pa.int64(), doc, unit, minimum=0)


TABLE = Table(
    name="models",
    grain="One row per model at its fixed revision.",
    key=("model",),
    columns=(
        c.MODEL,
        Column("source", pa.string(), "Where the weights came from: `embedded`, a folder, a GGUF file or a hub id."),
        Column("revision", pa.string(), "Hub commit, or the weight hash for local files."),
        Column("architecture", pa.string(), "Class that transformers builds."),
        _count("layers", "Decoder layers."),
        _count("hidden_size", "Width of the residual stream."),
        _count("vocabulary", "Rows of the LM head, or of the embedding in a model without one."),
        _count("context_length", "Longest sequence that the model was made for.", "tokens"),
        _count("parameters", "All parameters, tied ones once."),
        _count("parameters_attn", "Parameters of all attention sublayers."),
        _count("parameters_mlp", "Parameters of all MLP sublayers."),
        _count("parameters_embedding", "Parameters of embeddings and LM head, tied ones once."),
        Column("is_head_tied", pa.bool_(), "Whether there is an LM head and it is the embedding matrix."),
        Column("final_norm", pa.string(), "Kind of the final norm as proved: rms or layer, each also _plus_one; none."),
        Column("dtype", pa.string(), "Type in which the model runs."),
        Column("weight_hash", pa.string(), "SHA-256 over the weight files."),
        Column("tokenizer_hash", pa.string(), "SHA-256 over the tokenizer's files and chat template."),
        _count("weight_bytes", "Size of the weight files.", "bytes"),
    ),
    partitioning="model",
    telling=("architecture", "layers", "hidden_size", "parameters", "dtype", "revision"),
)
