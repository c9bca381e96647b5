-- What each variant removed, and how far its output moved.
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: stg_variants, stg_generations, options_at_reference, decoding_at_reference, reference_temperature,
--   output_noise_ceiling, acceptance, sequence_kl
-- how to read: KL is KL(dense‖pruned) over the prompts' steps at `temperature`, which is 1 if T = 1 was measured and
--   the nearest to 1 otherwise. first_flip_step_median is over all prompts. One that never flips counts as later than
--   any step; if that is the median, it is NULL. Compare prompts_correct with prompts_graded, the prompts with a known
--   answer. A measure that was not taken is NULL, a count of what was not measured is 0. kl_noise_p95_nats is the 95th
--   percentile of the KL that rounding alone causes, teacher forced, the largest over noise variants at the same
--   temperature; is_below_noise says that the median KL is not above it. Noise variants are excluded.
-- reason: the charts and the comparisons need one agreed set of figures per variant; the dense row is the baseline.
-- columns:
--   kl_step0_nats: Mean KL(dense‖pruned) over prompts at the first generated token [nats]
--   kl_teacher_forced_median_nats: Median KL(dense‖pruned) over steps on the dense model's tokens [nats]
--   kl_teacher_forced_mean_nats: Mean KL(dense‖pruned) over steps on the dense model's tokens [nats]
--   kl_teacher_forced_max_nats: Largest KL(dense‖pruned) over steps on the dense model's tokens [nats]
--   kl_own_text_median_nats: Median KL(dense‖pruned) over steps on the variant's text, which both models read [nats]
--   top1_agreement: Share of teacher-forced steps with the same most likely token [share]
--   acceptance_rate: Mean of 1 − TV over the tokens of the dense model's greedy texts: share of the variant's
--     drafts that it would accept [share]
--   sequence_kl_dense_pruned_nats: KL(dense‖pruned) of the distributions over sampled texts [nats]
--   sequence_kl_pruned_dense_nats: KL(pruned‖dense) of them [nats]
--   is_below_noise: Whether the median KL is at most what rounding causes = kl_teacher_forced_median_nats <=
--     kl_noise_p95_nats
--   first_flip_step_median: Median step of the first different token; NULL if at least half never flip [step]
--   prompts: Prompts with a free-running text [prompts]
--   prompts_flipped: Those whose text differs from the dense one [prompts]
--   prompts_collapsed: Those whose text ends in a loop [prompts]
--   prompts_graded: Those with a known answer [prompts]
--   prompts_correct: Those with a known answer whose text has it [prompts]
--   questions: Multiple-choice questions at the reference temperature [questions]
--   options_argmax_kept: Questions whose most likely option is also the dense model's [questions]
with prompts_at_output as (
    select
        model, recipe,
        avg(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced' and step = 0) as kl_step0_nats,
        median(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced') as kl_teacher_forced_median_nats,
        avg(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced') as kl_teacher_forced_mean_nats,
        max(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced') as kl_teacher_forced_max_nats,
        median(kl_dense_pruned_nats) filter (where trajectory = 'own_text') as kl_own_text_median_nats,
        avg(cast(is_top1_same as integer)) filter (where trajectory = 'teacher_forced') as top1_agreement
    from decoding_at_reference
    group by all
),

sequences as (
    select
        model, recipe,
        any_value(sequence_kl_nats) filter (where trajectory = 'teacher_forced') as sequence_kl_dense_pruned_nats,
        any_value(sequence_kl_nats) filter (where trajectory = 'own_text') as sequence_kl_pruned_dense_nats
    from sequence_kl
    group by all
),

texts as (
    select
        model, recipe,
        -- Infinity means "never" inside the median and becomes NULL below.
        median(coalesce(cast(first_flip_step as double), cast('inf' as double))) as first_flip_step_median,
        count(*) as prompts,
        count(first_flip_step) as prompts_flipped,
        count(collapse_step) as prompts_collapsed,
        count(is_correct) as prompts_graded,
        cast(count_if(is_correct) as bigint) as prompts_correct
    from stg_generations
    group by all
),

choices as (
    select
        options.model, options.recipe,
        count(*) as questions,
        cast(count_if(options.is_argmax_same) as bigint) as options_argmax_kept
    from options_at_reference as options
    group by all
)

select
    variants.model, variants.recipe, variants.variant, variants.method, variants.sparsity,
    variants.parameters_removed_share, variants.sublayers_dropped_count, reference_temperature.temperature,
    prompts_at_output.kl_step0_nats, prompts_at_output.kl_teacher_forced_median_nats,
    prompts_at_output.kl_teacher_forced_mean_nats, prompts_at_output.kl_teacher_forced_max_nats,
    prompts_at_output.kl_own_text_median_nats, prompts_at_output.top1_agreement, acceptance.acceptance_rate,
    sequences.sequence_kl_dense_pruned_nats, sequences.sequence_kl_pruned_dense_nats, ceilings.kl_noise_p95_nats,
    prompts_at_output.kl_teacher_forced_median_nats <= ceilings.kl_noise_p95_nats as is_below_noise,
    case
        when isfinite(texts.first_flip_step_median) then texts.first_flip_step_median
    end as first_flip_step_median,
    coalesce(texts.prompts, 0) as prompts,
    coalesce(texts.prompts_flipped, 0) as prompts_flipped,
    coalesce(texts.prompts_collapsed, 0) as prompts_collapsed,
    coalesce(texts.prompts_graded, 0) as prompts_graded,
    coalesce(texts.prompts_correct, 0) as prompts_correct,
    coalesce(choices.questions, 0) as questions,
    coalesce(choices.options_argmax_kept, 0) as options_argmax_kept
from stg_variants as variants
left join reference_temperature using (model, recipe)
left join prompts_at_output using (model, recipe)
left join acceptance
    on
        variants.model = acceptance.model and variants.recipe = acceptance.recipe and acceptance.decoding = 'greedy'
        and acceptance.trajectory = 'teacher_forced'
left join sequences using (model, recipe)
left join texts using (model, recipe)
left join choices using (model, recipe)
left join output_noise_ceiling as ceilings
    on variants.model = ceilings.model and reference_temperature.temperature = ceilings.temperature
where not variants.is_noise
