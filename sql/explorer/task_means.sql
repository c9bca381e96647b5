-- Right answers of each variant, as means over tasks.
-- grain: one row per model × recipe × measure, dense included.
-- inputs: variant_scores
select model, recipe, measure, score, score_low, score_high
from variant_scores
where measure in ('non_generative', 'generative')
order by model, recipe, measure
