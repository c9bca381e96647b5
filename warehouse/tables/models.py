"""Dense models with their revisions, sizes and hashes.

Sizes are counted from the loaded weights, not read from the config.
"""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="models",
    grain="One row per model at its fixed revision.",
    key=("model",),
    columns=(
        c.MODEL,
        c.text("source", "Source of the weights: `embedded:NAME` or `embedded`, a folder, a GGUF file or a hub id."),
        c.text("revision", "Hub commit, or the weight hash for local files."),
        c.text("architecture", "Class of the model in transformers."),
        c.int64("layers", "Decoder layers."),
        c.int64("hidden_size", "Width of the residual stream."),
        c.int64("vocabulary", "Rows of the LM head, or of the embedding if there is no head."),
        c.int64("context_length", "Longest sequence that the model supports.", "tokens"),
        c.int64("parameters", "All parameters, tied ones counted once."),
        c.int64("parameters_attn", "Parameters of all attention sublayers."),
        c.int64("parameters_mlp", "Parameters of all MLP sublayers."),
        c.int64("parameters_embedding", "Parameters of embeddings and LM head, tied ones counted once."),
        c.flag("is_head_tied", "Whether the model has an LM head that is the embedding matrix."),
        c.text(
            "final_norm", "Verified kind of the final norm: rms or layer, each also with the suffix _plus_one; or none."
        ),
        c.text("dtype", "Data type in which the model runs."),
        c.text("weight_hash", "SHA-256 over the weight files."),
        c.text("tokenizer_hash", "SHA-256 over the tokenizer's files and chat template."),
        c.int64("weight_bytes", "Size of the weight files.", "bytes"),
        c.text(
            "weight_format",
            "Number formats of the stored weights with their shares; for a GGUF file the name of its mixture first. "
            "The recipe `dense` takes the stored numbers as they are, so `rtn-4bit` of a 4-bit file rounds twice.",
            nullable=True,
            since=2,
        ),
    ),
    preview_columns=("architecture", "layers", "hidden_size", "parameters", "dtype", "weight_format", "revision"),
)
