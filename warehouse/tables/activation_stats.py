"""Inputs of every linear module of the dense model on the calibration tokens.

Wanda reads `second_moment`; the other columns show outlier channels.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import columns as c

TABLE = Table(
    name="activation_stats",
    grain="One row per model × linear module inside the layers.",
    key=("model", "module"),
    columns=(
        c.MODEL,
        Column("module", pa.string(), "Name of the module in the model."),
        c.LAYER,
        c.SUBLAYER,
        Column("in_features", pa.int32(), "Input channels.", minimum=1),
        Column("out_features", pa.int32(), "Output channels.", minimum=1),
        Column("tokens", pa.int64(), "Number of calibration tokens.", "tokens", minimum=1),
        Column("mean", c.FLOATS, "Mean of each input channel.", "activation", "E[x_j]", since=2),
        Column(
            "second_moment",
            c.FLOATS,
            "Mean square of each input channel.",
            "activation²",
            "E[x_j²]",
            "Wanda, 2306.11695 §3",
        ),
        c.amount("rms", "Root mean square over all channels.", "activation"),
        c.amount(
            "kurtosis",
            "Fourth moment over squared second moment, all channels together; 3 for a Gaussian.",
            "ratio",
            "E[x⁴]/E[x²]²",
        ),
        c.amount("max_abs", "Largest absolute input.", "activation"),
        Column(
            "outlier_channels",
            pa.int32(),
            "Channels whose RMS is more than six times that of the median channel.",
            "channels",
            minimum=0,
        ),
        Column("calibration_hash", pa.string(), "SHA-256 of the calibration tokens."),
    ),
    partitioning="model",
    preview_columns=("rms", "kurtosis", "max_abs", "outlier_channels"),
    references=(c.OF_MODEL,),
    version=2,
)
