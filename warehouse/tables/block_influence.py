"""How much each sublayer and block turns the residual stream: the order in which to drop them.

Measured on the dense model and the calibration tokens.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="block_influence",
    grain="One row per model × layer × unit (attn, mlp or the whole block).",
    key=("model", "layer", "unit"),
    columns=(
        c.MODEL,
        c.LAYER,
        Column("unit", c.LABEL, "What would be dropped.", values=("attn", "mlp", "block")),
        Column(
            "influence",
            c.METRIC,
            "Mean cosine defect between the unit's input and output stream.",
            "1 - cosine",
            "E[1 − cos(x, x+f(x))]",
            "ShortGPT, 2403.03853 §3",
            minimum=0,
            maximum=2.000001,
        ),
        Column(
            "drop_order",
            pa.int32(),
            "Place among units of its kind; 1 has least influence and is dropped first.",
            "rank",
            minimum=1,
        ),
        Column(
            "orth_rel_mean",
            c.METRIC,
            "Mean share of the update across the stream.",
            "ratio",
            "E[‖f(x)⊥‖/‖x‖]",
            minimum=0,
        ),
        Column("tokens", pa.int64(), "Calibration tokens seen.", "tokens", minimum=1),
        Column("calibration_hash", pa.string(), "SHA-256 of the calibration tokens."),
    ),
    partitioning="model",
    telling=("influence", "drop_order"),
    references=(c.OF_MODEL,),
)
