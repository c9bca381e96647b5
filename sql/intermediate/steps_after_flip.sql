-- KL at each step after a text's first flip, over the steps that all trajectories of the prompt have.
-- grain: one row per variant × prompt whose text flips × trajectory × step, noise variants included.
-- key: model, recipe, prompt_id, trajectory, step
-- inputs: stg_decoding_steps, trajectory_ends, variant_temperatures, stg_generations
-- how to read: up to the flip the texts are equal, and all trajectories agree. A step counts if none of the texts has
--   ended, the fork included, and a prompt if it has at least 2 such steps. An answer of one letter has only its end
--   after the flip, where nothing can be fed back and KL is ten times that of other steps.
-- reason: q13 and the claims compare trajectories after they part, on the same steps, with noise as their null.
-- columns:
--   kl_nats: KL(dense‖pruned); for fork, of the dense model on its text and on the fork [nats]
with ends as (
    select
        model, recipe, prompt_id,
        min(end_step) as end_step
    from trajectory_ends
    group by all
),

steps as (
    select
        measured.model, measured.recipe, measured.prompt_id, measured.trajectory, measured.step,
        cast(measured.kl_dense_pruned_nats as double) as kl_nats,
        count(distinct measured.trajectory) over (partition by measured.model, measured.recipe, measured.prompt_id)
            as n_trajectories
    from stg_decoding_steps as measured
    inner join variant_temperatures using (model, recipe, temperature)
),

-- The fork and the own text have no rows after their ends.
shared as (
    select steps.model, steps.recipe, steps.prompt_id, steps.trajectory, steps.step, steps.kl_nats
    from steps
    inner join stg_generations as texts using (model, recipe, prompt_id)
    left join ends using (model, recipe, prompt_id)
    where steps.step > texts.first_flip_step and steps.step <= coalesce(ends.end_step, steps.step)
    qualify
        count(*) over (partition by steps.model, steps.recipe, steps.prompt_id, steps.step) = steps.n_trajectories
)

select model, recipe, prompt_id, trajectory, step, kl_nats
from shared
qualify count(distinct step) over (partition by model, recipe, prompt_id) >= 2
