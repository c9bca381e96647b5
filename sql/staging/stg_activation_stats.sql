-- The table activation_stats as the marts read it: every column by name.
-- grain: one row per model × linear module inside the layers.
-- key: model, module
-- inputs: activation_stats
-- reason: one place that names the stored columns, so that a renamed one breaks here and nowhere else.
select
    model,
    module,
    layer,
    sublayer,
    in_features,
    out_features,
    tokens,
    mean,
    second_moment,
    rms,
    kurtosis,
    max_abs,
    outlier_channels,
    calibration_hash
from activation_stats
