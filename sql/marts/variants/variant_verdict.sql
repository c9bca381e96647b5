-- The verdict on each pruned variant: what the evidence allows to say, and how much would allow to say more.
-- grain: one row per pruned variant.
-- key: model, recipe
-- inputs: variant_summary, decisive_evidence, variant_damage, stg_generations
-- how to read: verdict_of applies to the 95 % intervals of the losses beyond the noise floor, with a tolerance of 0.1
--   (decisive_evidence, verdict_evidence). safe: writing and choosing surely lose at most that. broken: choosing surely
--   loses half or more. non-generative only: writing surely loses more than the tolerance, and choosing surely less
--   than half. not safe: else one of them surely loses more than the tolerance. Evidence of fewer than 30 independent
--   units (answers, prompts, questions) supports no verdict. Each statement holds for one variant, at 95 % without
--   correction for the number of variants. Flips and loops of the texts are columns beside the verdict and do not
--   change it.
-- reason: says which variants may be used, and which number decided it.
-- columns:
--   verdict: safe, non-generative only, broken, not safe or too little evidence [label]
--   evidence_writing: score or agreement of tasks, or tokens of the study's prompts; NULL without any [label]
--   loss_writing: Loss in writing beyond the noise floor [share]
--   loss_writing_low: Lower end of its 95 % interval; NULL where it is not known [share]
--   loss_writing_high: Upper end of it [share]
--   n_writing: Answers or prompts that it rests on [units]
--   evidence_choosing: score or agreement of tasks, or options of the study's questions; NULL without any [label]
--   loss_choosing: Loss in choosing among options beyond the noise floor [share]
--   loss_choosing_low: Lower end of its 95 % interval; NULL where it is not known [share]
--   loss_choosing_high: Upper end of it [share]
--   n_choosing: Answers or questions that it rests on [units]
--   undecided: writing, choosing or both, where more of it would change the verdict; NULL without, as where one kind
--     was not measured and the other seems to be tolerated [label]
--   units_needed: Number of units of that evidence, of both the larger, that would decide, with the same loss and
--     spread; NULL where it is not known [units]
--   unit_needed: answers, prompts or questions, or those of both kinds [label]
--   kl_step0_nats_low: Lower end of its 95 % interval, Student's t over prompts [nats]
--   kl_step0_nats_high: Upper end of it [nats]
--   top1_change: Share of teacher-forced tokens whose most likely token differs [share] = 1 − top1_agreement
--   top1_change_low: Lower end of its 95 % interval, as in variant_damage [share]
--   top1_change_high: Upper end of it [share]
--   options_changed: Share of the prompts' questions whose most likely option differs [share] = 1 −
--     options_argmax_kept/questions
--   options_changed_low: Lower end of its 95 % interval by Wilson [share]
--   options_changed_high: Upper end of it [share]
--   collapse_step_first: Earliest step at which one of the variant's texts completes a loop; NULL where none does
--     [step]
--   prompts_collapsed_dense: Prompts whose dense text ends in a loop [prompts]
with

texts as (
    select
        model,
        recipe,
        min(collapse_step) as collapse_step_first,
        count(collapse_step) as prompts_collapsed
    from stg_generations
    group by model, recipe
),

damages as (
    select
        model,
        recipe,
        max(amount_low) filter (where measure = 'kl_step0_nats') as kl_step0_nats_low,
        max(amount_high) filter (where measure = 'kl_step0_nats') as kl_step0_nats_high,
        max(amount) filter (where measure = 'top1_change') as top1_change,
        max(amount_low) filter (where measure = 'top1_change') as top1_change_low,
        max(amount_high) filter (where measure = 'top1_change') as top1_change_high,
        max(amount) filter (where measure = 'options_changed_share') as options_changed,
        max(amount_low) filter (where measure = 'options_changed_share') as options_changed_low,
        max(amount_high) filter (where measure = 'options_changed_share') as options_changed_high
    from variant_damage
    group by model, recipe
),

kinds as (
    select
        model,
        recipe,
        kind,
        evidence,
        loss,
        loss_low,
        loss_high,
        n_units,
        unit,
        units_needed,
        low,
        high,
        is_loss_decided(kind, low, high, 0.1) as is_decided
    from decisive_evidence
),

ruled as (
    select
        variants.model,
        variants.recipe,
        verdict_of(writing.low, writing.high, choosing.low, choosing.high, 0.1) as verdict,
        coalesce(not writing.is_decided, false) as is_writing_open,
        coalesce(not choosing.is_decided, false) as is_choosing_open,
        -- Whether more evidence of one kind is enough, because it is likely to show a loss, or the other is tolerated.
        coalesce(writing.loss > 0.1 or choosing.high <= 0.1, false) as is_writing_enough,
        coalesce(choosing.loss > 0.1 or writing.high <= 0.1, false) as is_choosing_enough
    from variant_summary as variants
    left join kinds as writing
        on variants.model = writing.model and variants.recipe = writing.recipe and writing.kind = 'writing'
    left join kinds as choosing
        on variants.model = choosing.model and variants.recipe = choosing.recipe and choosing.kind = 'choosing'
    where variants.recipe <> 'dense'
),

judged as (
    select
        model,
        recipe,
        verdict,
        case
            -- Where one kind is lost, the other, or how much of choosing is lost, can still change the verdict.
            when verdict = 'not safe' and is_choosing_open then 'choosing'
            when verdict = 'not safe' and is_writing_open then 'writing'
            when verdict <> 'too little evidence' then null
            when is_writing_open and is_writing_enough then 'writing'
            when is_choosing_open and is_choosing_enough then 'choosing'
            when is_writing_open and is_choosing_open then 'both'
        end as undecided
    from ruled
)

select
    judged.model,
    judged.recipe,
    variants.variant,
    variants.method,
    variants.parameters_removed_share,
    judged.verdict,
    writing.evidence as evidence_writing,
    writing.loss as loss_writing,
    writing.loss_low as loss_writing_low,
    writing.loss_high as loss_writing_high,
    writing.n_units as n_writing,
    choosing.evidence as evidence_choosing,
    choosing.loss as loss_choosing,
    choosing.loss_low as loss_choosing_low,
    choosing.loss_high as loss_choosing_high,
    choosing.n_units as n_choosing,
    judged.undecided,
    case judged.undecided
        when 'writing' then writing.units_needed
        when 'choosing' then choosing.units_needed
        -- greatest would skip a number that is not known.
        when 'both'
            then if(
                writing.units_needed + choosing.units_needed is not null,
                greatest(writing.units_needed, choosing.units_needed),
                null
            )
    end as units_needed,
    case judged.undecided
        when 'writing' then writing.unit
        when 'choosing' then choosing.unit
        when 'both'
            then if(writing.unit = choosing.unit, 'answers of each', writing.unit || ' and as many ' || choosing.unit)
    end as unit_needed,
    variants.kl_step0_nats,
    damages.kl_step0_nats_low,
    damages.kl_step0_nats_high,
    damages.top1_change,
    damages.top1_change_low,
    damages.top1_change_high,
    variants.questions,
    damages.options_changed,
    damages.options_changed_low,
    damages.options_changed_high,
    variants.kl_teacher_forced_median_nats,
    variants.kl_own_text_median_nats,
    variants.kl_noise_p95_nats,
    variants.is_below_noise,
    variants.prompts,
    variants.prompts_flipped,
    variants.first_flip_step_median,
    variants.prompts_collapsed,
    texts.collapse_step_first,
    coalesce(dense_texts.prompts_collapsed, 0) as prompts_collapsed_dense
from judged
inner join variant_summary as variants
    on judged.model = variants.model and judged.recipe = variants.recipe
left join kinds as writing
    on judged.model = writing.model and judged.recipe = writing.recipe and writing.kind = 'writing'
left join kinds as choosing
    on judged.model = choosing.model and judged.recipe = choosing.recipe and choosing.kind = 'choosing'
left join damages
    on judged.model = damages.model and judged.recipe = damages.recipe
left join texts
    on judged.model = texts.model and judged.recipe = texts.recipe
left join texts as dense_texts
    on judged.model = dense_texts.model and dense_texts.recipe = 'dense'
order by judged.model, judged.recipe
