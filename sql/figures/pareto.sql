-- Scores against the share of parameters removed, for models with a variant that removes parameters.
-- grain: one row per model × measure × recipe, dense included.
-- inputs: variant_scores, variant_summary
select
    variant_scores.model, variant_scores.recipe, variant_summary.method, variant_summary.parameters_removed_share,
    variant_scores.measure, variant_scores.score,
    variant_scores.score_low as low,
    variant_scores.score_high as high,
    variant_scores.n_tasks,
    -- No other variant removes at least as much and scores at least as much, except one that equals it in both.
    coalesce(
        variant_scores.score > max(variant_scores.score) over (
            partition by variant_scores.model, variant_scores.measure
            order by variant_summary.parameters_removed_share desc, variant_scores.score desc
            range between unbounded preceding and current row exclude group
        ), true
    ) as is_best
from variant_scores
inner join variant_summary using (model, recipe)
where variant_summary.parameters_removed_share > 0 or variant_scores.recipe = 'dense'
qualify max(variant_summary.parameters_removed_share) over (partition by variant_scores.model) > 0
order by
    variant_scores.model asc, variant_scores.measure asc, variant_summary.parameters_removed_share asc,
    variant_scores.score desc, variant_scores.recipe asc
