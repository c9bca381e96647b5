-- The distance between variants and their dense model as distributions over texts, in both directions.
-- grain: one row per model × recipe × trajectory.
-- inputs: sequence_kl
-- how to read: the dense recipe is left out, noise variants are kept as the null.
select
    model, recipe, is_noise, trajectory, prompts, texts, sequence_kl_nats, sequence_kl_low_nats, sequence_kl_high_nats,
    kl_per_token_nats
from sequence_kl
where recipe <> 'dense'
order by
    model asc, is_noise asc, max(sequence_kl_nats) over (partition by model, recipe) desc, recipe asc, trajectory desc
