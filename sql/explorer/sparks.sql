-- Mean KL over prompts at every step, both models reading the dense text or the variant's.
-- grain: one row per pruned variant × trajectory × step.
-- inputs: decoding_at_reference
select
    model, recipe, trajectory, step,
    avg(kl_dense_pruned_nats) as kl_mean_nats
from decoding_at_reference
where recipe <> 'dense' and trajectory in ('teacher_forced', 'own_text')
group by all
order by model, recipe, trajectory, step
