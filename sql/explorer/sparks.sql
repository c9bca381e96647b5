-- Mean KL over prompts at every step: of the variant on the dense text and on its own, and of the dense model after the
-- variant's first other token.
-- grain: one row per pruned variant × trajectory × step.
-- inputs: decoding_at_reference
select
    model,
    recipe,
    trajectory,
    step,
    avg(kl_dense_pruned_nats) as kl_mean_nats
from decoding_at_reference
where recipe <> 'dense' and trajectory <> 'free_running'
group by model, recipe, trajectory, step
order by model, recipe, trajectory, step
