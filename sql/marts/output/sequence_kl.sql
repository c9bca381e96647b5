-- The distance between a variant and the dense model as distributions over whole texts, in both directions.
-- grain: one row per variant × trajectory with texts sampled from the full softmax; dense and noise variants included.
-- key: model, recipe, trajectory
-- inputs: sampled_sequences, noise_variants
-- how to read: P is the dense model's distribution over texts and Q the variant's, at the sampling temperature. In
--   teacher_forced, sequence_kl_nats is KL(P‖Q) = E over x~P of Σ KL(p_t‖q_t); in own_text, KL(Q‖P) = E over x~Q of Σ
--   KL(q_t‖p_t), by the chain rule. A text that the study cuts at `generation.new_tokens` counts with its first tokens,
--   so the number is the KL of the distributions over these. Texts drawn from a nucleus (top_p below 1) have no row:
--   the nuclei of the two models differ, and the sums would not be a KL. Samples of one prompt are averaged first.
--   Intervals are Student's t over prompts on a logarithmic scale; NULL below 2 prompts and for a mean of 0. In
--   simulated studies of 20 prompts they cover the truth in 93 % of cases if the KL of prompts spreads by a factor of
--   1.6, and in 88 % if it spreads by a factor of 2.7. Noise variants are the null. KL(P‖Q) is high if the variant
--   lacks texts of the dense model, KL(Q‖P) if it writes texts that the dense model would not.
-- reason: for sampled generation, this one number says how far apart two models are.
-- columns:
--   is_noise: Whether the variant is the dense model with other rounding
--   prompts: Prompts [prompts]
--   texts: Sampled texts, prompts × samples [texts]
--   texts_ended: Texts that end with an end-of-text token; the others are cut [texts]
--   tokens: Tokens of all texts [tokens]
--   sequence_kl_nats: KL of the two distributions over texts, mean over prompts [nats]
--   sequence_kl_low_nats: Lower end of its 95 % interval over prompts [nats]
--   kl_per_token_nats: Sum of the KL of all tokens over their number [nats per token]
--   kl_per_token_low_nats: Lower end of its 95 % interval over prompts [nats per token]
with prompts as (
    select
        model, recipe, trajectory, prompt_id, temperature,
        count(*) as texts,
        count_if(has_ended) as texts_ended,
        sum(tokens) as tokens,
        sum(kl_text_nats) as kl_nats
    from sampled_sequences
    where top_p = 1
    group by all
),

means as (
    select
        model, recipe, trajectory, temperature,
        count(*) as prompts,
        cast(sum(texts) as bigint) as texts,
        cast(sum(texts_ended) as bigint) as texts_ended,
        cast(sum(tokens) as bigint) as tokens,
        avg(kl_nats / texts) as sequence_kl_nats,
        half_width_of_mean(kl_nats / texts, 1.0) as half_width,
        sum(kl_nats) / sum(tokens) as kl_per_token_nats,
        half_width_of_mean(kl_nats, tokens) as half_width_per_token
    from prompts
    group by all
)

select
    means.model, means.recipe,
    noise_variants.recipe is not null as is_noise,
    means.trajectory, means.temperature, means.prompts, means.texts, means.texts_ended, means.tokens,
    means.sequence_kl_nats,
    interval_of_positive_mean(means.sequence_kl_nats, means.half_width)[1] as sequence_kl_low_nats,
    interval_of_positive_mean(means.sequence_kl_nats, means.half_width)[2] as sequence_kl_high_nats,
    means.kl_per_token_nats,
    interval_of_positive_mean(means.kl_per_token_nats, means.half_width_per_token)[1] as kl_per_token_low_nats,
    interval_of_positive_mean(means.kl_per_token_nats, means.half_width_per_token)[2] as kl_per_token_high_nats
from means
left join noise_variants using (model, recipe)
