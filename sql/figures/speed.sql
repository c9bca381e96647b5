-- Scores against the speedup over the dense model, at the smallest batch and the longest prompt timed with it.
-- grain: one row per model × work × measure × recipe, dense included.
-- inputs: speed_summary, variant_summary, variant_scores
with timed as (
    select *
    from speed_summary
    qualify
        dense_rank() over (partition by model order by batch asc, length desc, new_tokens desc) = 1
        and max(cast(recipe <> 'dense' as integer)) over (partition by model) = 1
),

speedups as (
    select
        *,
        unnest(['prefill', 'decode']) as work,
        unnest([prefill_speedup, decode_speedup]) as speedup
    from timed
)

select
    speedups.model, speedups.recipe, variant_summary.method, speedups.batch, speedups.length, speedups.new_tokens,
    speedups.equal_sides, variant_scores.measure, variant_scores.score,
    variant_scores.score_low as low,
    variant_scores.score_high as high,
    speedups.work, speedups.speedup
from speedups
inner join variant_scores using (model, recipe)
inner join variant_summary using (model, recipe)
where speedups.speedup is not null
order by speedups.model asc, speedups.work desc, variant_scores.measure asc, speedups.recipe asc
