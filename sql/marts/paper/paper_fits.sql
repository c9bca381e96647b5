-- How closely each theorem's estimate agrees with the truth, method by method, with the uncertainty over prompts.
-- grain: one row per model × theorem × method.
-- key: model, theorem, method
-- inputs: estimate_points, reference_temperature, stg_variants
-- columns:
--   n: points: variants of the method × prompts × positions × layers × sublayers
--   prompts: prompts that the points come from
--   pearson_log10: correlation of the logarithms of estimate and truth
--   pearson_log10_se: its standard error, by leaving out one prompt at a time (jackknife)
--   ratio_median: median of estimate / truth; above 1 the estimate overshoots
--   ratio_median_low: 10th percentile of estimate / truth
--   ratio_median_high: 90th percentile of estimate / truth
--   share_within_10_percent: points whose estimate is within 10 % of the truth [share]
-- how to read: scope local, lens normed, at the reference temperature. ratio_median_low and _high span the middle 80 %
--   of the points: they are a spread, not an error. The correlation is NULL below 10 points or where one side does not
--   vary, its error below three prompts. Estimates of exactly 0 have no logarithm and are excluded from the correlation
--   only.
-- reason: a paper prints the fit of the theorems with one row per method.
with

points as (
    select
        points.model,
        stg_variants.method,
        points.theorem,
        points.prompt_id,
        cast(points.estimate as double) / points.truth as ratio,
        case when points.estimate > 0 then log10(cast(points.estimate as double)) end as x,
        case when points.estimate > 0 then log10(cast(points.truth as double)) end as y
    from estimate_points as points
    inner join reference_temperature
        on
            points.model = reference_temperature.model
            and points.recipe = reference_temperature.recipe
            and points.temperature = reference_temperature.temperature
    inner join stg_variants
        on points.model = stg_variants.model and points.recipe = stg_variants.recipe
    where points.scope = 'local' and points.lens = 'normed'
),

whole as (
    select
        model,
        theorem,
        method,
        count(*) as n,
        count(distinct prompt_id) as prompts,
        correlation(x, y) as pearson_log10,
        avg(x) as x_mean,
        avg(y) as y_mean,
        quantile_cont(ratio, [0.1, 0.5, 0.9]) as ratio_quantiles,
        avg(cast(abs(ratio - 1) <= 0.1 as integer)) as share_within_10_percent
    from points
    group by model, theorem, method
),

-- Moments around the common mean, prompt by prompt: their sums without one prompt give the correlation without it.
moments as (
    select
        points.model,
        points.theorem,
        points.method,
        points.prompt_id,
        count(points.x) as n,
        sum(points.x - whole.x_mean) as x,
        sum(points.y - whole.y_mean) as y,
        sum((points.x - whole.x_mean) ** 2) as xx,
        sum((points.y - whole.y_mean) ** 2) as yy,
        sum((points.x - whole.x_mean) * (points.y - whole.y_mean)) as xy
    from points
    inner join whole
        on points.model = whole.model and points.theorem = whole.theorem and points.method = whole.method
    where points.x is not null
    group by points.model, points.theorem, points.method, points.prompt_id
),

rests as (
    select
        model,
        theorem,
        method,
        sum(n) over method_points - n as n,
        sum(x) over method_points - x as x,
        sum(y) over method_points - y as y,
        sum(xx) over method_points - xx as xx,
        sum(yy) over method_points - yy as yy,
        sum(xy) over method_points - xy as xy
    from moments
    window method_points as (partition by model, theorem, method)
),

left_out as (
    select
        model,
        theorem,
        method,
        correlation_of_sums(n, x, y, xx, yy, xy) as pearson_log10
    from rests
),

errors as (
    select
        model,
        theorem,
        method,
        case
            when count(pearson_log10) = count(*) and count(*) >= 3
                then sqrt((count(*) - 1.0) * var_pop(pearson_log10))
        end as pearson_log10_se
    from left_out
    group by model, theorem, method
)

select
    whole.model,
    whole.theorem,
    whole.method,
    whole.n,
    whole.prompts,
    whole.pearson_log10,
    case when whole.pearson_log10 is not null then errors.pearson_log10_se end as pearson_log10_se,
    whole.ratio_quantiles[2] as ratio_median,
    whole.ratio_quantiles[1] as ratio_median_low,
    whole.ratio_quantiles[3] as ratio_median_high,
    whole.share_within_10_percent
from whole
left join errors
    on whole.model = errors.model and whole.theorem = errors.theorem and whole.method = errors.method
order by whole.model, whole.theorem, whole.method
