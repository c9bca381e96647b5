-- first_flip_step is the first step whose two tokens, or most likely tokens, differ, in every trajectory.
-- grain: one row per model × recipe × prompt × trajectory that disagrees.
-- inputs: stg_decoding_steps, generations_without_noise, stg_models
-- reason: up to the flip all trajectories read the same tokens, so all give the same step. greedy_survival relies on
--   this. Noise variants are excluded: they are rounding, and passes of other shapes round differently.
with differences as (
    select
        steps.model, steps.recipe, steps.prompt_id, steps.trajectory,
        min(steps.step) filter (
            where not (steps.is_same_token and steps.is_top1_same)
        ) as first_difference_step,
        min(steps.step) filter (
            where least(steps.margin_dense, steps.margin_pruned) <= tie_margin(models.dtype, steps.recipe)
        ) as first_tie_step
    from stg_decoding_steps as steps
    left join stg_models as models using (model)
    group by all
)

select
    generations.model, generations.recipe, generations.prompt_id, differences.trajectory, generations.first_flip_step,
    differences.first_difference_step
from generations_without_noise as generations
inner join differences using (model, recipe, prompt_id)
where
    generations.first_flip_step is distinct from differences.first_difference_step
    -- Passes of other shapes round differently: after a tie the two may diverge.
    and (
        differences.first_tie_step is null
        or differences.first_tie_step > least(generations.first_flip_step, differences.first_difference_step)
    )
