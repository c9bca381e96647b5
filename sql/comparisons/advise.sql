-- Verdicts on recipes of one model for `prunescope advise`: those of variant_verdict for any tolerance, where losses
-- predicted from other models stand in for what was not measured on enough units. Parameters: model, recipes,
-- tolerance.
-- grain: one row per recipe.
-- inputs: verdict_evidence, variant_summary, loss_predictions, greedy_survival_summary
with

declared as (
    select
        recipe,
        measure,
        declared_evidence(evidence, loss, loss_low, loss_high, lost, total, n_units) as it
    from verdict_evidence
    where model = $1 and list_contains($2, recipe)
    group by recipe, measure
),

measures as (
    select
        recipe,
        max(it) filter (where measure = 'fidelity') as fidelity,
        max(it) filter (where measure = 'writing') as writing,
        max(it) filter (where measure = 'choosing') as choosing,
        max(it) filter (where measure = 'alive') as alive
    from declared
    group by recipe
),

worded as (
    select
        *,
        word_of(fidelity.evidence, fidelity.low, fidelity.high, fidelity.units, $3) as same,
        word_of(writing.evidence, writing.low, writing.high, writing.units, $3) as writes,
        word_of(choosing.evidence, choosing.low, choosing.high, choosing.units, $3) as chooses,
        word_of(alive.evidence, alive.low, alive.high, alive.units, $3) as lives
    from measures
)

select
    recipes.recipe,
    verdict_of(same, writes, chooses, lives) as verdict,
    coalesce(same, 'too little evidence') as fidelity,
    quality_of(writes, chooses) as quality,
    coalesce(lives, 'too little evidence') as alive,
    variants.parameters_removed_share,
    worded.fidelity.loss as loss_fidelity,
    worded.writing.evidence as evidence_writing,
    worded.writing.loss as loss_writing,
    worded.writing.low as loss_writing_low,
    worded.writing.high as loss_writing_high,
    worded.writing.units as n_writing,
    worded.choosing.evidence as evidence_choosing,
    worded.choosing.loss as loss_choosing,
    worded.choosing.low as loss_choosing_low,
    worded.choosing.high as loss_choosing_high,
    worded.choosing.units as n_choosing,
    worded.alive.loss as loss_alive,
    greedy.equal_tokens_95_low,
    greedy.equal_tokens_95_high,
    greedy.texts as n_greedy
from (select unnest($2) as recipe) as recipes
left join variant_summary as variants
    on recipes.recipe = variants.recipe and variants.model = $1
left join greedy_survival_summary as greedy
    on recipes.recipe = greedy.recipe and greedy.model = $1
left join worded
    on recipes.recipe = worded.recipe
order by
    list_position(['safe', 'writes other text', 'chooses only', 'not safe', 'too little evidence'], verdict),
    worded.choosing.loss + coalesce(worded.writing.loss, 0),
    loss_fidelity,
    recipes.recipe
