-- Mean KL of every text, both models reading the dense text or the variant's, and KL at the first token.
-- grain: one row per pruned variant × prompt.
-- inputs: decoding_at_reference
select
    model, recipe, prompt_id,
    avg(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced' and step = 0) as kl_step0_nats,
    avg(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced') as kl_forced_mean_nats,
    avg(kl_dense_pruned_nats) filter (where trajectory = 'own_text') as kl_own_mean_nats
from decoding_at_reference
where recipe <> 'dense'
group by all
order by model, recipe, prompt_id
