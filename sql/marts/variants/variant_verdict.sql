-- The verdict on each pruned variant: whether it keeps the dense tokens, gives right answers, and stays alive.
-- grain: one row per pruned variant.
-- key: model, recipe
-- inputs: variant_summary, verdict_evidence
-- how to read: fidelity is about the same tokens as the dense model. quality is about right answers, in writing and in
--   choosing, or the dense model's own answers if no right one is known (evidence agreement, options). alive is about
--   texts that neither loop nor end early. Each holds if its loss beyond the null (verdict_evidence) is surely at most
--   0.1 (verdict_tolerance), and fails if it is surely more: with its whole 95 % interval, over at least 30 units
--   (verdict_min_units). The evidence is the first source with enough units in a fixed order (declared_evidence),
--   regardless of the result. The verdict is safe if quality and alive hold; chooses only if choosing holds, but
--   writing or alive fails; not safe if quality or alive fails otherwise; writes other text if alive holds, fidelity
--   fails, and quality is not known. Each verdict holds for one variant; the report's first sentences hold for all
--   variants of a model together.
-- reason: says which variants may be used, and which number decided it.
-- columns:
--   verdict: safe, writes other text, chooses only, not safe or too little evidence [label]
--   fidelity: holds, fails or too little evidence [label]
--   quality: holds if writing and choosing hold, fails if one of them fails, else too little evidence [label]
--   writing: holds, fails or too little evidence [label]
--   choosing: holds, fails or too little evidence [label]
--   alive: holds, fails or too little evidence [label]
--   loss_fidelity: Share of teacher-forced tokens whose most likely token differs, beyond the null [share]
--   loss_fidelity_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   n_fidelity: Prompts behind it [prompts]
--   evidence_writing: score, graded or agreement; NULL without any [label]
--   loss_writing: Share of the dense model's right answers in writing that is lost beyond the null [share]
--   loss_writing_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   n_writing: Answers behind it [answers]
--   evidence_choosing: score, graded, agreement or options; NULL without any [label]
--   loss_choosing: Share of the dense model's answers above a guess in choosing that is lost beyond the null [share]
--   loss_choosing_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   n_choosing: Answers behind it [answers]
--   loss_alive: Share of the variant's own texts that loop or end early, beyond the null [share]
--   loss_alive_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   prompts_lost: Texts that loop or end early [prompts]
--   n_alive: Texts behind it [prompts]
--   would_decide: Number of units that would decide each measure without enough evidence, with the same loss and
--     spread; NULL if none is known
with declared as (
    select
        model, recipe, measure,
        declared_evidence(evidence, loss, loss_low, loss_high, lost, total, n_units) as it
    from verdict_evidence
    where part = 'whole' and evidence <> 'prediction'
    group by all
),

worded as (
    select
        declared.*,
        word_of(
            declared.it.evidence, declared.it.low, declared.it.high, declared.it.units, verdict_tolerance()
        ) as word,
        units_to_decide(
            declared.it.loss, declared.it.low, declared.it.high, declared.it.units, verdict_tolerance()
        ) as units_needed
    from declared
),

measures as (
    select
        model, recipe,
        map_from_entries(list((measure, word))) as words,
        map_from_entries(list((measure, it))) as judged,
        string_agg(measure || ': ' || units_needed, ', ' order by measure) filter (
            where word = 'too little evidence'
        ) as would_decide
    from worded
    group by all
)

select
    variants.model, variants.recipe, variants.variant, variants.method, variants.parameters_removed_share,
    verdict_of(
        measures.words['fidelity'], measures.words['writing'], measures.words['choosing'], measures.words['alive']
    ) as verdict,
    coalesce(measures.words['fidelity'], 'too little evidence') as fidelity,
    quality_of(measures.words['writing'], measures.words['choosing']) as quality,
    coalesce(measures.words['writing'], 'too little evidence') as writing,
    coalesce(measures.words['choosing'], 'too little evidence') as choosing,
    coalesce(measures.words['alive'], 'too little evidence') as alive,
    measures.judged['fidelity'].loss as loss_fidelity,
    measures.judged['fidelity'].low as loss_fidelity_low,
    measures.judged['fidelity'].high as loss_fidelity_high,
    measures.judged['fidelity'].units as n_fidelity,
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
    measures.judged['alive'].low as loss_alive_low,
    measures.judged['alive'].high as loss_alive_high,
    cast(measures.judged['alive'].lost as bigint) as prompts_lost,
    measures.judged['alive'].units as n_alive,
    measures.would_decide, variants.first_flip_step_median, variants.is_below_noise, variants.prompts,
    variants.prompts_flipped, variants.prompts_collapsed, variants.prompts_graded, variants.prompts_correct
from variant_summary as variants
left join measures using (model, recipe)
where variants.recipe <> 'dense'
order by variants.model, variants.recipe
