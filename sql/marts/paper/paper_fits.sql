-- How closely each theorem's estimate agrees with the truth, for each method, with the uncertainty over prompts.
-- grain: one row per model × theorem × method.
-- key: model, theorem, method
-- inputs: estimate_points, reference_temperature, stg_variants
-- columns:
--   n: points: variants of the method × prompts × positions × layers × sublayers
--   prompts: prompts that the points come from
--   pearson: correlation of estimate and truth, the paper's statistic
--   pearson_se: its standard error, by leaving out one prompt at a time (jackknife)
--   pearson_log10: correlation of the logarithms of estimate and truth
--   pearson_log10_se: its standard error, by leaving out one prompt at a time (jackknife)
--   ratio_median: median of estimate / truth; above 1 the estimate overshoots
--   ratio_median_low: 10th percentile of estimate / truth
--   ratio_median_high: 90th percentile of estimate / truth
--   share_within_10_percent: points whose estimate is within 10 % of the truth [share]
-- how to read: scope local, lens normed, at the reference temperature. ratio_median_low and _high span the middle 80 %
--   of the points: they are a spread, not an error. The correlations are NULL below 10 points or if one side does not
--   vary, their errors below three prompts. Estimates of exactly 0 have no logarithm and are excluded from the
--   correlation of logarithms only.
-- reason: a paper prints the fit of the theorems with one row per method.
with points as (
    select
        points.model, stg_variants.method, points.theorem, points.prompt_id,
        cast(points.estimate as double) as estimate,
        cast(points.truth as double) as truth
    from estimate_points as points
    inner join reference_temperature using (model, recipe, temperature)
    inner join stg_variants using (model, recipe)
    where points.scope = 'local' and points.lens = 'normed'
),

ratios as (
    select
        model, theorem, method,
        count(*) as n,
        count(distinct prompt_id) as prompts,
        quantile_cont(estimate / truth, [0.1, 0.5, 0.9]) as ratio_quantiles,
        avg(cast(abs(estimate / truth - 1) <= 0.1 as integer)) as share_within_10_percent
    from points
    group by all
),

-- Each point on both scales. Row i gets entry i of every unnested list.
scaled as (
    select
        *,
        unnest(['plain', 'log10']) as scale,
        unnest([estimate, log10_positive(estimate)]) as x,
        unnest([truth, log10(truth)]) as y
    from points
),

whole as (
    select
        model, theorem, method, scale,
        correlation(x, y) as pearson,
        avg(x) as x_mean,
        avg(y) as y_mean
    from scaled
    where x is not null
    group by all
),

-- Moments of each prompt around the common mean: summed over all prompts but one, they give the correlation without it.
moments as (
    select
        scaled.model, scaled.theorem, scaled.method, scaled.scale, scaled.prompt_id,
        count(*) as n,
        sum(scaled.x - whole.x_mean) as x,
        sum(scaled.y - whole.y_mean) as y,
        sum((scaled.x - whole.x_mean) ** 2) as xx,
        sum((scaled.y - whole.y_mean) ** 2) as yy,
        sum((scaled.x - whole.x_mean) * (scaled.y - whole.y_mean)) as xy
    from scaled
    inner join whole using (model, theorem, method, scale)
    where scaled.x is not null
    group by all
),

left_out as (
    select
        model, theorem, method, scale,
        correlation_of_sums(
            sum(n) over method_points - n,
            sum(x) over method_points - x,
            sum(y) over method_points - y,
            sum(xx) over method_points - xx,
            sum(yy) over method_points - yy,
            sum(xy) over method_points - xy
        ) as pearson
    from moments
    window method_points as (partition by model, theorem, method, scale)
),

errors as (
    select
        model, theorem, method, scale,
        case
            when count(pearson) = count(*) and count(*) >= 3 then sqrt((count(*) - 1.0) * var_pop(pearson))
        end as pearson_se
    from left_out
    group by all
),

correlations as (
    select
        whole.model, whole.theorem, whole.method,
        max(whole.pearson) filter (where whole.scale = 'plain') as pearson,
        max(errors.pearson_se) filter (where whole.scale = 'plain' and whole.pearson is not null) as pearson_se,
        max(whole.pearson) filter (where whole.scale = 'log10') as pearson_log10,
        max(errors.pearson_se) filter (where whole.scale = 'log10' and whole.pearson is not null) as pearson_log10_se
    from whole
    left join errors using (model, theorem, method, scale)
    group by all
)

select
    ratios.model, ratios.theorem, ratios.method, ratios.n, ratios.prompts, correlations.pearson,
    correlations.pearson_se, correlations.pearson_log10, correlations.pearson_log10_se,
    ratios.ratio_quantiles[2] as ratio_median,
    ratios.ratio_quantiles[1] as ratio_median_low,
    ratios.ratio_quantiles[3] as ratio_median_high,
    ratios.share_within_10_percent
from ratios
left join correlations using (model, theorem, method)
order by ratios.model, ratios.theorem, ratios.method
