"""How far one sublayer moves the representation: the main table of the warehouse.

Teacher forced: both sides read the prompt and the dense model's greedy continuation.
"""

import pyarrow as pa

from warehouse.schema import Column, Table
from warehouse.tables import columns as c

TABLE = Table(
    name="layer_transitions",
    grain="One row per variant × prompt × position × layer × sublayer × scope × lens × temperature.",
    key=("model", "recipe", "prompt_id", "position", "layer", "sublayer", "scope", "lens", "temperature"),
    columns=(
        c.MODEL,
        c.RECIPE,
        c.PROMPT_ID,
        c.POSITION,
        c.STEP.but(
            nullable=True,
            doc="Generated token that this position predicts, from 0; NULL inside the prompt.",
        ),
        c.LAYER,
        c.SUBLAYER,
        c.SCOPE,
        c.LENS,
        c.TEMPERATURE,
        Column(
            "is_changed",
            pa.bool_(),
            "Whether the recipe changed this sublayer's weights or dropped it; "
            "where it did not, the local shift is exactly zero and was not computed.",
        ),
        *c.DIVERGENCE_SINCE_2,
    ),
    partitioning="variant",
    references=(c.OF_VARIANT,),
    version=2,
    invariants=c.DIVERGENCE_INVARIANTS,
)
