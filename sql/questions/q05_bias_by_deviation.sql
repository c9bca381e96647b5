-- At which deviation does each second-order estimate begin to fail?
-- grain: one row per model × scope × lens × temperature × theorem × decile of the truth.
-- key: model, scope, lens, temperature, theorem, decile
-- inputs: transitions_without_noise, stg_layer_transitions
-- how to read: all recipes and sublayers together, divided into tenths by the size of the truth (equal truths stay
--   together, so a tenth may be larger or missing); truth_min to truth_max is the range of the tenth. ratio is estimate
--   / truth. is_good says that the median is within 10 % of 1. Do not trust the estimate from the first tenth on for
--   which it is false. Rows without a shift have no truth and are excluded, and so are noise variants. If a model has a
--   million records or more, every second position is used, from one and a half million on every third, and so on,
--   shifted by one position per layer: more points would change these tenths little.
-- reason: a bias that grows with the deviation comes from the expansion, a constant one from something else.
-- columns:
--   theorem: Name of the estimate: T1 h, T1 z, T2 p or T3 KL
--   decile: Tenth of the points by the size of the truth; 1 is the smallest
--   n: Points in the tenth [points]
--   truth_min: Smallest truth in the tenth [1 - cosine; nats for T3 KL]
--   truth_max: Largest truth in the tenth [1 - cosine; nats for T3 KL]
--   ratio_median: Median of estimate over truth; above 1 the estimate overshoots [ratio] = estimate/truth
--   ratio_p10: 10th percentile of estimate over truth [ratio] = estimate/truth
--   share_within_10_percent: Share of points whose estimate is within 10 % of the truth [share]
--   is_good: Whether the median ratio is within 10 % of 1 = abs(ratio_median − 1) <= 0.1
with models as (
    select
        model,
        greatest(count(*) // 500000, 1) as stride
    from stg_layer_transitions
    group by all
),

-- A map instead of a table, because a join would take three times as long on the records.
strides as (
    select map_from_entries(list(row(model, stride))) as of_model
    from models
),

records as materialized (
    select
        transitions.model, transitions.scope, transitions.lens, transitions.temperature, transitions.t1_h,
        transitions.one_minus_cos_h, transitions.t1_z, transitions.one_minus_cos_z, transitions.t2_p,
        transitions.one_minus_cos_p, transitions.t3_kl_nats, transitions.kl_dense_pruned_nats
    from transitions_without_noise as transitions
    where (transitions.position + transitions.layer) % (select strides.of_model from strides)[transitions.model] = 0
),

-- Row i gets entry i of every unnested list.
points as not materialized (
    select
        model, scope, lens, temperature,
        unnest(['T1 h', 'T1 z', 'T2 p', 'T3 KL']) as theorem,
        unnest([t1_h, t1_z, t2_p, t3_kl_nats]) as estimate,
        unnest([one_minus_cos_h, one_minus_cos_z, one_minus_cos_p, kl_dense_pruned_nats]) as truth
    from records
),

cuts as (
    select
        model, scope, lens, temperature, theorem,
        quantile_disc(truth, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) as cuts
    from points
    where truth > 0
    group by all
    -- Always true: the planner assumes that a filtered side is the smaller one of the join below.
    having count(*) > 0
),

deciles as (
    select
        points.model, points.scope, points.lens, points.temperature, points.theorem,
        part_of(points.truth, cuts.cuts) as decile,
        count(*) as n,
        min(points.truth) as truth_min,
        max(points.truth) as truth_max,
        quantile_cont(cast(points.estimate as double) / points.truth, [0.1, 0.5, 0.9]) as ratio,
        avg(
            cast(abs(cast(points.estimate as double) / points.truth - 1) <= 0.1 as integer)
        ) as share_within_10_percent
    from points
    inner join cuts using (model, scope, lens, temperature, theorem)
    where points.truth > 0
    group by all
)

select
    model, scope, lens, temperature, theorem, decile, n, truth_min, truth_max,
    ratio[2] as ratio_median,
    ratio[1] as ratio_p10,
    ratio[3] as ratio_p90,
    share_within_10_percent,
    abs(ratio[2] - 1) <= 0.1 as is_good
from deciles
order by model, theorem, scope, lens, temperature, decile
