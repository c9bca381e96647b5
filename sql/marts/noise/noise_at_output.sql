-- How far rounding alone moves the model's output, and at which step it first flips a token.
-- grain: one row per model × noise recipe × temperature.
-- key: model, recipe, temperature
-- inputs: stg_decoding_steps, stg_generations, noise_variants, dense_ends
-- how to read: KL is KL(dense‖noise), teacher forced, over prompts and steps up to the end of the dense text.
--   first_flip_step_min is the earliest step at which rounding makes a free-running text differ from the dense one,
--   NULL if it never does; prompts_flipped counts those texts. A pruned text that flips as early may do so by chance.
-- reason: lower limit of what a measurement at the output can show.
-- columns:
--   steps: Teacher-forced steps, all prompts together [steps]
--   kl_median_nats: Median KL(dense‖noise) [nats]
--   kl_p95_nats: 95th percentile of KL(dense‖noise) [nats]
--   kl_max_nats: Largest KL(dense‖noise) [nats]
--   top1_agreement: Share of steps with the same most likely token [share]
--   prompts: Prompts with a free-running text [prompts]
--   prompts_flipped: Those whose text differs from the dense one [prompts]
--   first_flip_step_min: Earliest step at which a text differs from the dense one; NULL if none does [step]
with texts as (
    select
        model, recipe,
        count(*) as prompts,
        count(first_flip_step) as prompts_flipped,
        min(first_flip_step) as first_flip_step_min
    from stg_generations
    group by all
)

select
    steps.model, steps.recipe, steps.temperature,
    count(*) as steps,
    median(steps.kl_dense_pruned_nats) as kl_median_nats,
    quantile_cont(steps.kl_dense_pruned_nats, 0.95) as kl_p95_nats,
    max(steps.kl_dense_pruned_nats) as kl_max_nats,
    avg(cast(steps.is_top1_same as integer)) as top1_agreement,
    coalesce(any_value(texts.prompts), 0) as prompts,
    coalesce(any_value(texts.prompts_flipped), 0) as prompts_flipped,
    any_value(texts.first_flip_step_min) as first_flip_step_min
from stg_decoding_steps as steps
inner join noise_variants using (model, recipe)
left join texts using (model, recipe)
anti join dense_ends
    on steps.model = dense_ends.model and steps.prompt_id = dense_ends.prompt_id and steps.step > dense_ends.end_step
where steps.trajectory = 'teacher_forced'
group by all
