"""Statistics of the inputs of every linear module of the dense model, on the calibration tokens.

Wanda reads `second_moment`; the other columns show outlier channels.
"""

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="activation_stats",
    grain="One row per model × linear module inside the layers.",
    key=("model", "module"),
    columns=(
        c.MODEL,
        c.text("module", "Name of the module in the model."),
        c.LAYER,
        c.SUBLAYER,
        c.int32("in_features", "Input channels.", minimum=1),
        c.int32("out_features", "Output channels.", minimum=1),
        c.int64("tokens", "Number of calibration tokens.", "tokens", minimum=1),
        c.floats("mean", "Mean of each input channel.", "activation", "E[x_j]", since=2),
        c.floats(
            "second_moment", "Mean square of each input channel.", "activation²", "E[x_j²]", "Wanda, 2306.11695 §3"
        ),
        c.amount("rms", "Root mean square over all channels.", "activation"),
        c.amount(
            "kurtosis",
            "Fourth moment over squared second moment, all channels together; 3 for a Gaussian.",
            "ratio",
            "E[x⁴]/E[x²]²",
        ),
        c.amount("max_abs", "Largest absolute input.", "activation"),
        c.int32(
            "outlier_channels",
            "Number of channels whose RMS is more than six times that of the median channel.",
            "channels",
        ),
        c.text("calibration_hash", "SHA-256 of the calibration tokens."),
    ),
    preview_columns=("rms", "kurtosis", "max_abs", "outlier_channels"),
)
