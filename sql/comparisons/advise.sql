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

worded as (
    select
        declared.*,
        word_of(declared.it.evidence, declared.it.low, declared.it.high, declared.it.units, $3) as word
    from declared
),

measures as (
    select
        recipe,
        max(word) filter (where measure = 'fidelity') as fidelity_word,
        max(word) filter (where measure = 'writing') as writing_word,
        max(word) filter (where measure = 'choosing') as choosing_word,
        max(word) filter (where measure = 'alive') as alive_word,
        max(it) filter (where measure = 'fidelity') as fidelity,
        max(it) filter (where measure = 'writing') as writing,
        max(it) filter (where measure = 'choosing') as choosing,
        max(it) filter (where measure = 'alive') as alive
    from worded
    group by recipe
)

select
    recipes.recipe,
    verdict_of(
        measures.fidelity_word, measures.writing_word, measures.choosing_word, measures.alive_word
    ) as verdict,
    coalesce(measures.fidelity_word, 'too little evidence') as fidelity,
    quality_of(measures.writing_word, measures.choosing_word) as quality,
    coalesce(measures.alive_word, 'too little evidence') as alive,
    variants.parameters_removed_share,
    measures.fidelity.loss as loss_fidelity,
    measures.writing.evidence as evidence_writing,
    measures.writing.loss as loss_writing,
    measures.writing.low as loss_writing_low,
    measures.writing.high as loss_writing_high,
    measures.writing.units as n_writing,
    measures.choosing.evidence as evidence_choosing,
    measures.choosing.loss as loss_choosing,
    measures.choosing.low as loss_choosing_low,
    measures.choosing.high as loss_choosing_high,
    measures.choosing.units as n_choosing,
    measures.alive.loss as loss_alive,
    greedy.equal_tokens_95_low,
    greedy.equal_tokens_95_high,
    greedy.texts as n_greedy
from (select unnest($2) as recipe) as recipes
left join variant_summary as variants
    on recipes.recipe = variants.recipe and variants.model = $1
left join greedy_survival_summary as greedy
    on recipes.recipe = greedy.recipe and greedy.model = $1
left join measures
    on recipes.recipe = measures.recipe
order by
    list_position(['safe', 'writes other text', 'chooses only', 'not safe', 'too little evidence'], verdict),
    measures.choosing.loss + coalesce(measures.writing.loss, 0), loss_fidelity, recipes.recipe
