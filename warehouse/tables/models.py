"""Dense models with their revisions, sizes and hashes.

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
        Column(
            "source",
            pa.string(),
            "Source of the weights: `embedded:NAME` or `embedded`, a folder, a GGUF file or a hub id.",
        ),
        Column("revision", pa.string(), "Hub commit, or the weight hash for local files."),
        Column("architecture", pa.string(), "Class of the model in transformers."),
        _count("layers", "Decoder layers."),
        _count("hidden_size", "Width of the residual stream."),
        _count("vocabulary", "Rows of the LM head, or of the embedding if there is no head."),
        _count("context_length", "Longest sequence that the model supports.", "tokens"),
        _count("parameters", "All parameters, tied ones counted once."),
        _count("parameters_attn", "Parameters of all attention sublayers."),
        _count("parameters_mlp", "Parameters of all MLP sublayers."),
        _count("parameters_embedding", "Parameters of embeddings and LM head, tied ones counted once."),
        Column("is_head_tied", pa.bool_(), "Whether the model has an LM head that is the embedding matrix."),
        Column(
            "final_norm",
            pa.string(),
            "Verified kind of the final norm: rms or layer, each also with the suffix _plus_one; or none.",
        ),
        Column("dtype", pa.string(), "Data type in which the model runs."),
        Column("weight_hash", pa.string(), "SHA-256 over the weight files."),
        Column("tokenizer_hash", pa.string(), "SHA-256 over the tokenizer's files and chat template."),
        _count("weight_bytes", "Size of the weight files.", "bytes"),
        Column(
            "weight_format",
            pa.string(),
            "Number formats of the stored weights with their shares; for a GGUF file the name of its mixture first. "
            "These numbers are the recipe `dense`, so that `rtn-4bit` of a 4-bit file rounds twice.",
            nullable=True,
            since=2,
        ),
    ),
    partitioning="model",
    version=2,
    preview_columns=("architecture", "layers", "hidden_size", "parameters", "dtype", "weight_format", "revision"),
)
