-- Estimates against measurements after one changed sublayer, and their correlation.
-- grain: one row per model × theorem.
-- inputs: estimate_points, reference_temperature, reference_lens
with points as (
    select
        every_point.model, every_point.recipe, every_point.scope, every_point.theorem, every_point.estimate,
        every_point.truth
    from estimate_points as every_point
    semi join reference_temperature using (model, recipe, temperature)
    semi join reference_lens using (model, lens)
    where every_point.estimate > 0 and every_point.truth > 0 and every_point.scope in ('local', 'propagated')
),

by_variant as (
    select
        model, theorem, scope, recipe,
        correlation(cast(estimate as double), cast(truth as double)) as plain_correlation,
        correlation(ln(estimate), ln(truth)) as log_correlation
    from points
    group by all
),

correlations as (
    select
        model, theorem,
        median(plain_correlation) filter (where scope = 'local') as plain_correlation,
        min(plain_correlation) filter (where scope = 'local') as plain_correlation_min,
        max(plain_correlation) filter (where scope = 'local') as plain_correlation_max,
        median(log_correlation) filter (where scope = 'local') as log_correlation,
        median(plain_correlation) filter (where scope = 'propagated') as plain_correlation_propagated
    from by_variant
    where log_correlation is not null
    group by all
)

select
    points.model, points.theorem,
    count(*) as points,
    median(points.estimate / points.truth) as ratio_median,
    quantile_cont(points.estimate / points.truth, 0.1) as ratio_p10,
    quantile_cont(points.estimate / points.truth, 0.9) as ratio_p90,
    median(points.estimate / points.truth) filter (where points.truth > 0.05) as large_ratio_median,
    any_value(correlations.plain_correlation) as plain_correlation,
    any_value(correlations.plain_correlation_min) as plain_correlation_min,
    any_value(correlations.plain_correlation_max) as plain_correlation_max,
    any_value(correlations.log_correlation) as log_correlation,
    any_value(correlations.plain_correlation_propagated) as plain_correlation_propagated
from points
left join correlations using (model, theorem)
where points.scope = 'local'
group by all
order by points.model, points.theorem
