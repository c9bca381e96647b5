-- The table activation_stats as other views read it: every column by name.
-- grain: one row per model × linear module inside the layers.
-- key: model, module
-- inputs: activation_stats
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
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
