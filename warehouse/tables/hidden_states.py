"""The residual stream itself, kept on request, so that a later measure needs no second run of the model.

What follows from it (logits are `W h`) is never stored.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="hidden_states",
    grain="One row per variant × prompt × position × layer × sublayer × scope, in studies with measure.keep_states.",
    key=("model", "recipe", "prompt_id", "position", "layer", "sublayer", "scope"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.PROMPT_ID,
        c.POSITION,
        c.LAYER,
        c.SUBLAYER,
        Column(
            "scope",
            c.LABEL,
            "`dense`: the dense stream behind the sublayer, in the recipe dense; in all others the shift of that "
            "stream, because a difference that is stored keeps its digits and two streams that are stored do not. "
            "`local`: dense context, this one sublayer swapped, kept where the recipe changed it and zero elsewhere; "
            "`isolated`: the same swap, shift of the final stream; `propagated`: the pruned model run whole.",
            values=("dense", "local", "isolated", "propagated"),
        ),
        Column(
            "scale",
            pa.float32(),
            "What a 1 in `state` stands for: the power of two that puts the row's largest entry into float16's "
            "highest binades.",
            "2-norm of a unit entry",
            "2^(⌊log2 max|h|⌋ − 14)",
            minimum=0,
        ),
        Column(
            "state",
            pa.list_(pa.float16()),
            "The stream or its shift before the final norm, in units of `scale`: no entry overflows, and every one "
            "that is at least 2^-28 of the largest has a relative error of at most 2^-11. Eight times as fine as "
            "bfloat16 in the same bytes, whose wider range the scale makes needless.",
            "scale",
            "h/scale or Δh/scale",
        ),
    ),
    partitioning="variant",
    telling=("scale",),
    references=(c.OF_VARIANT,),
    may_be_empty=True,
)
