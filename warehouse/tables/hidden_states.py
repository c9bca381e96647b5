"""Residual stream, kept on request: a later measure then does not need to run the model again.

Logits follow from it as `W h` and are never stored.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="hidden_states",
    grain="One row per variant × prompt × position × layer × sublayer × scope, in studies with measure.keep_states.",
    key=("model", "recipe", "prompt_id", "position", "layer", "sublayer", "scope"),
    columns=(
        *c.PROMPT,
        c.POSITION,
        c.LAYER,
        c.SUBLAYER,
        c.label(
            "scope",
            "`dense`: the dense stream after the sublayer, in the recipe dense. The other scopes hold the shift of "
            "that stream, because the difference of two stored streams would lose digits. `local`: one sublayer "
            "swapped in a dense context; without a row if the recipe did not change the sublayer, because the shift is "
            "zero. `isolated`: the same swap, shift of the final stream. `propagated`: the whole pruned model. "
            "`restored`: the pruned model with one changed sublayer dense again, shift of the final stream.",
            values=("dense", "local", "isolated", "propagated", "restored"),
        ),
        c.metric(
            "scale",
            "Unit of `state`: the power of two that puts the row's largest entry into float16's highest binades.",
            "2-norm of a unit entry",
            "2^(⌊log2 max|h|⌋ − 14)",
            minimum=0,
        ),
        Column(
            pa.list_(pa.float16()),
            "state",
            "The stream or its shift before the final norm, in units of `scale`. No entry overflows. An entry of at "
            "least 2^-28 of the largest has a relative error of at most 2^-11, an eighth of bfloat16's error, which "
            "takes as many bytes.",
            "scale",
            "h/scale or Δh/scale",
        ),
    ),
    preview_columns=("scale",),
    may_be_empty=True,
)
