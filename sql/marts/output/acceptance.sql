-- How often the dense model would accept a token that the variant drafts: the expected acceptance rate of speculative
-- sampling with the variant as draft.
-- grain: one row per variant × decoding × trajectory; dense and noise variants included.
-- key: model, recipe, decoding, trajectory
-- inputs: token_acceptance, noise_variants
-- how to read: acceptance_rate is the mean of 1 − TV(p, q) over the tokens of greedy or sampled texts
--   (token_acceptance). teacher_forced is along the dense model's texts, as in speculative sampling, whose texts follow
--   the dense model's distribution; own_text is along the variant's. The rate is computed from the two distributions;
--   no speculative sampling is run. The interval is Student's t over prompts; NULL below 3 prompts and if no prompt
--   deviates. Noise variants are the null: what rounding alone rejects.
-- reason: a rate from 0 to 1 is comparable across models, and says what a variant is worth as a draft.
-- columns:
--   is_noise: Whether the variant is the dense model with other rounding
--   prompts: Prompts [prompts]
--   tokens: Tokens of all texts [tokens]
--   acceptance_rate: Expected share of drafted tokens that the dense model accepts [share]
--   acceptance_low: Lower end of its 95 % interval, Student's t over prompts [share]
with prompts as (
    select
        model, recipe, decoding, trajectory, prompt_id, temperature,
        sum(acceptance) as accepted,
        count(*) as tokens
    from token_acceptance
    group by all
),

rates as (
    select
        model, recipe, decoding, trajectory, temperature,
        count(*) as prompts,
        cast(sum(tokens) as bigint) as tokens,
        sum(accepted) / sum(tokens) as acceptance_rate,
        half_width_of_mean(accepted, tokens) as half_width
    from prompts
    group by all
)

select
    rates.model, rates.recipe,
    noise_variants.recipe is not null as is_noise,
    rates.decoding, rates.trajectory, rates.temperature, rates.prompts, rates.tokens, rates.acceptance_rate,
    interval_within(rates.acceptance_rate, rates.half_width, 0, 1, rates.prompts)[1] as acceptance_low,
    interval_within(rates.acceptance_rate, rates.half_width, 0, 1, rates.prompts)[2] as acceptance_high
from rates
left join noise_variants using (model, recipe)
