-- Verdicts on recipes of one model for `prunescope advise`: those of variant_verdict for any tolerance, where losses
-- predicted from other models come after those of tasks and before tokens and options. Parameters: model, recipes,
-- tolerance.
-- grain: one row per recipe.
-- inputs: verdict_evidence, variant_summary, loss_predictions, greedy_survival_summary
with

kinds as (
    select
        recipe,
        kind,
        decisive_evidence_of(kind, evidence, loss, loss_low, loss_high, n_units, unit, $3) as chosen
    from verdict_evidence
    where model = $1 and list_contains($2, recipe)
    group by recipe, kind
)

select
    recipes.recipe,
    verdict_of(writing.chosen.low, writing.chosen.high, choosing.chosen.low, choosing.chosen.high, $3) as verdict,
    variants.parameters_removed_share,
    writing.chosen.evidence as evidence_writing,
    writing.chosen.loss as loss_writing,
    writing.chosen.loss_low as loss_writing_low,
    writing.chosen.loss_high as loss_writing_high,
    writing.chosen.n_units as n_writing,
    choosing.chosen.evidence as evidence_choosing,
    choosing.chosen.loss as loss_choosing,
    choosing.chosen.loss_low as loss_choosing_low,
    choosing.chosen.loss_high as loss_choosing_high,
    choosing.chosen.n_units as n_choosing,
    greedy.equal_tokens_95_low,
    greedy.equal_tokens_95_high,
    greedy.texts as n_greedy
from (select unnest($2) as recipe) as recipes
left join variant_summary as variants
    on recipes.recipe = variants.recipe and variants.model = $1
left join greedy_survival_summary as greedy
    on recipes.recipe = greedy.recipe and greedy.model = $1
left join kinds as writing
    on recipes.recipe = writing.recipe and writing.kind = 'writing'
left join kinds as choosing
    on recipes.recipe = choosing.recipe and choosing.kind = 'choosing'
order by
    list_position(['safe', 'non-generative only', 'not safe', 'broken', 'too little evidence'], verdict),
    writing.chosen.loss,
    choosing.chosen.loss,
    recipes.recipe
