-- The table models as other views read it: every column by name.
-- grain: one row per model at its fixed revision.
-- key: model
-- inputs: models
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
select
    model,
    source,
    revision,
    architecture,
    layers,
    hidden_size,
    vocabulary,
    context_length,
    parameters,
    parameters_attn,
    parameters_mlp,
    parameters_embedding,
    is_head_tied,
    final_norm,
    dtype,
    weight_hash,
    tokenizer_hash,
    weight_bytes,
    weight_format
from models
