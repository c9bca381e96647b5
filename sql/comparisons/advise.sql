-- Verdicts on recipes of one model for `prunescope advise`, as in variant_verdict but for any tolerance. If a measure
-- has too few units, losses predicted from other models take its place. Parameters: model, recipes, tolerance.
-- grain: one row per recipe.
-- inputs: verdict_evidence, variant_summary, loss_predictions, greedy_survival_summary
with declared as (
    select
        recipe, measure,
        declared_evidence(evidence, loss, loss_low, loss_high, lost, total, n_units) as it
    from verdict_evidence
    where model = $1 and list_contains($2, recipe) and part = 'whole'
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
        map_from_entries(list((measure, word))) as words,
        map_from_entries(list((measure, it))) as judged
    from worded
    group by recipe
)

select
    recipes.recipe,
    verdict_of(
        measures.words['fidelity'], measures.words['writing'], measures.words['choosing'], measures.words['alive']
    ) as verdict,
    coalesce(measures.words['fidelity'], 'too little evidence') as fidelity,
    quality_of(measures.words['writing'], measures.words['choosing']) as quality,
    coalesce(measures.words['alive'], 'too little evidence') as alive,
    variants.parameters_removed_share,
    measures.judged['fidelity'].loss as loss_fidelity,
    measures.judged['writing'].evidence as evidence_writing,
    measures.judged['writing'].loss as loss_writing,
    measures.judged['writing'].low as loss_writing_low,
    measures.judged['writing'].high as loss_writing_high,
    measures.judged['writing'].units as n_writing,
    measures.judged['choosing'].evidence as evidence_choosing,
    measures.judged['choosing'].loss as loss_choosing,
    measures.judged['choosing'].low as loss_choosing_low,
    measures.judged['choosing'].high as loss_choosing_high,
    measures.judged['choosing'].units as n_choosing,
    measures.judged['alive'].loss as loss_alive,
    greedy.equal_tokens_95_low, greedy.equal_tokens_95_high,
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
    measures.judged['choosing'].loss + coalesce(measures.judged['writing'].loss, 0), loss_fidelity, recipes.recipe
