-- How far apart are the variant and the dense model as distributions over whole texts?
-- grain: one row per model × recipe × trajectory with texts sampled from the full softmax.
-- key: model, recipe, trajectory
-- inputs: sequence_kl
-- how to read: teacher_forced has KL(dense‖pruned), over texts of the dense model; own_text has KL(pruned‖dense), over
--   texts of the variant (sequence_kl). sequence_kl_noise_nats is the largest KL that rounding alone causes in the same
--   direction; NULL if no noise was sampled. At 1 nat per text, a text is e = 2.7 times as likely under the model that
--   wrote it (geometric mean). The dense recipe and noise variants are excluded.
-- reason: a mean KL of single tokens does not say how far texts are apart, nor on whose texts.
-- columns:
--   sequence_kl_noise_nats: Largest KL of the distributions over texts that rounding alone causes [nats]
with floors as (
    select
        model, trajectory,
        max(sequence_kl_nats) as sequence_kl_noise_nats
    from sequence_kl
    where is_noise
    group by all
)

select
    variants.model, variants.recipe, variants.trajectory, variants.temperature, variants.prompts, variants.texts,
    variants.texts_ended, variants.tokens, variants.sequence_kl_nats, variants.sequence_kl_low_nats,
    variants.sequence_kl_high_nats, variants.kl_per_token_nats, variants.kl_per_token_low_nats,
    variants.kl_per_token_high_nats, floors.sequence_kl_noise_nats
from sequence_kl as variants
left join floors using (model, trajectory)
where variants.recipe <> 'dense' and not variants.is_noise
order by variants.model asc, variants.trajectory desc, variants.sequence_kl_nats asc, variants.recipe asc
