-- How closely each theorem's estimate agrees with the truth if only rounding moves the model: the null of the fits.
-- grain: one row per model × theorem with local rows of the claims' noise variant.
-- key: model, theorem
-- inputs: local_transitions
-- how to read: as in paper_fits: lens normed, positions whose truth is above 0. A second-order estimate is exact for a
--   small shift, so rounding fits better than pruning. A good fit is evidence only if the shift is large.
-- reason: paper_claims shows the null next to each number.
-- columns:
--   theorem: T1 h, T1 z, T2 p or T3 KL [label]
--   pearson: Correlation of estimate and truth
--   pearson_log10: Correlation of their logarithms
with fits as (
    select
        model,
        fit_to_truth(t1_h, one_minus_cos_h) as h,
        fit_to_truth(t1_z, one_minus_cos_z) as z,
        fit_to_truth(t2_p, one_minus_cos_p) as p,
        fit_to_truth(t3_kl_nats, kl_dense_pruned_nats) as kl
    from local_transitions
    where is_noise and lens = 'normed'
    group by all
),

theorems as (
    select
        model,
        unnest(['T1 h', 'T1 z', 'T2 p', 'T3 KL']) as theorem,
        unnest([h, z, p, kl]) as fit
    from fits
)

select
    model, theorem,
    fit['pearson'] as pearson,
    fit['pearson_log10'] as pearson_log10
from theorems
where fit['n'] > 0
