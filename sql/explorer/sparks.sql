-- Mean KL over prompts at every step, on the dense model's tokens and on the variant's own.
-- grain: one row per pruned variant × trajectory × step.
-- inputs: decoding_at_reference
select
    model,
    recipe,
    trajectory,
    step,
    avg(kl_dense_pruned_nats) as kl_mean_nats
from decoding_at_reference
where recipe <> 'dense'
group by model, recipe, trajectory, step
order by model, recipe, trajectory, step
