"""Change of the residual stream's direction in each sublayer and block, which decides the order of drops.

It is measured on the dense model, on the calibration tokens.
"""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="block_influence",
    grain="One row per model × layer × unit (attn, mlp or the whole block).",
    key=("model", "layer", "unit"),
    columns=(
        c.MODEL,
        c.LAYER,
        c.label("unit", "Kind of unit that would be dropped.", values=("attn", "mlp", "block")),
        c.cosine_defect(
            "influence",
            "Mean cosine defect between the streams before and after the unit.",
            formula="E[1 − cos(x, x+f(x))]",
            source="ShortGPT, 2403.03853 §3",
        ),
        c.rank("drop_order", "Rank among units of its kind; 1 has the least influence and is dropped first."),
        c.amount(
            "orth_rel_mean",
            "Mean component of the update orthogonal to the stream, relative to the stream's length.",
            "ratio",
            "E[‖f(x)⊥‖/‖x‖]",
        ),
        c.int64("tokens", "Number of calibration tokens.", "tokens", minimum=1),
        c.text("calibration_hash", "SHA-256 of the calibration tokens."),
    ),
    preview_columns=("influence", "drop_order"),
)
