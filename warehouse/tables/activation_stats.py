"""What flows into every linear module on the calibration tokens of the dense model.

Wanda reads `second_moment`; the other columns say which channels are outliers.
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
        Column("tokens", pa.int64(), "Calibration tokens seen.", "tokens", minimum=1),
        Column("mean", pa.list_(pa.float32()), "Mean of each input channel.", "activation", "E[x_j]", since=2),
        Column(
            "second_moment",
            pa.list_(pa.float32()),
            "Mean square of each input channel.",
            "activation²",
            "E[x_j²]",
            "Wanda, 2306.11695 §3",
        ),
        Column("rms", c.METRIC, "Root mean square over all channels.", "activation", minimum=0),
        Column(
            "kurtosis",
            c.METRIC,
            "Fourth moment over squared second moment, all channels together; 3 for a Gaussian.",
            "ratio",
            "E[x⁴]/E[x²]²",
            minimum=0,
        ),
        Column("max_abs", c.METRIC, "Largest absolute input.", "activation", minimum=0),
        Column(
            "outlier_channels",
            pa.int32(),
            "Channels whose RMS is over six times the median channel's.",
            "channels",
            minimum=0,
        ),
        Column("calibration_hash", pa.string(), "SHA-256 of the calibration tokens."),
    ),
    partitioning="model",
    telling=("rms", "kurtosis", "max_abs", "outlier_channels"),
    references=(c.OF_MODEL,),
    version=2,
)
