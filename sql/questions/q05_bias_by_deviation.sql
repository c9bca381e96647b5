-- At which deviation does each second-order estimate begin to fail?
-- grain: one row per model × scope × lens × temperature × theorem × decile of the truth.
-- key: model, scope, lens, temperature, theorem, decile
-- inputs: estimate_points
-- how to read: all recipes and sublayers together, cut into tenths by the size of the truth (equal truths stay
--   together, so a tenth may be larger or missing); truth_min to truth_max is the tenth's range. ratio is
--   estimate / truth. `is_good` says that the median is within 10 % of 1: the first tenth where it is false is the
--   deviation from which on the estimate should not be trusted. Rows without a shift have no truth and are left out.
-- reason: a bias that grows with the deviation belongs to the expansion, one that does not to something else.
-- columns:
--   decile: Tenth of the points by the size of the truth; 1 is the smallest
--   n: Points in the tenth [points]
--   truth_min: Smallest truth in the tenth [1 - cosine; nats for T3 KL]
--   truth_max: Largest truth in the tenth [1 - cosine; nats for T3 KL]
--   ratio_median: Median of estimate over truth; above 1 the estimate overshoots [ratio] = estimate/truth
--   ratio_p10: 10th percentile of estimate over truth [ratio] = estimate/truth
--   ratio_p90: 90th percentile of estimate over truth [ratio] = estimate/truth
--   share_within_10_percent: Share of points whose estimate is within 10 % of the truth [share]
--   is_good: Whether the median ratio is within 10 % of 1 = abs(ratio_median − 1) <= 0.1
with

ranked as (
    select
        model,
        scope,
        lens,
        temperature,
        theorem,
        cast(estimate as double) as estimate,
        cast(truth as double) as truth,
        percent_rank() over (partition by model, scope, lens, temperature, theorem order by truth) as share_below
    from estimate_points
),

deciles as (
    select
        model,
        scope,
        lens,
        temperature,
        theorem,
        cast(least(1 + floor(10 * share_below), 10) as integer) as decile,
        count(*) as n,
        min(truth) as truth_min,
        max(truth) as truth_max,
        quantile_cont(estimate / truth, [0.1, 0.5, 0.9]) as ratio,
        avg(cast(abs(estimate / truth - 1) <= 0.1 as integer)) as share_within_10_percent
    from ranked
    group by model, scope, lens, temperature, theorem, decile
)

select
    model,
    scope,
    lens,
    temperature,
    theorem,
    decile,
    n,
    truth_min,
    truth_max,
    ratio[2] as ratio_median,
    ratio[1] as ratio_p10,
    ratio[3] as ratio_p90,
    share_within_10_percent,
    abs(ratio[2] - 1) <= 0.1 as is_good
from deciles
order by model, theorem, scope, lens, temperature, decile
