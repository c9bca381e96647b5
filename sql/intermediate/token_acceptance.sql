-- The probability that the dense model accepts a token that a variant drafts, token by token.
-- grain: one row per variant × decoding × trajectory × prompt × sample × step; dense and noise variants included.
-- key: model, recipe, decoding, trajectory, prompt_id, sample, step
-- inputs: stg_decoding_steps, trajectory_ends, variant_temperatures, stg_sampled_steps, sampled_sequences
-- how to read: decoding is `greedy`, the greedy texts at the temperature nearest to 1, sample 0; or `sampled`, the
--   texts of the study's key `decoding` at their own temperature, within the nuclei of both models. A teacher_forced
--   text ends with the dense model's. Sampled texts count only if they were measured to their end.
-- reason: single definition of acceptance in speculative sampling (Leviathan et al. 2023, arXiv 2211.17192; Chen et al.
--   2023, arXiv 2302.01318): a draft from q is accepted with probability min(1, p/q), on average with Σ min(p, q).
-- columns:
--   decoding: How the texts were written: `greedy` or `sampled`
--   trajectory: Whose texts both models read: the dense model's (`teacher_forced`) or the variant's (`own_text`)
--   acceptance: Probability that the dense model accepts the token that the variant draws [probability] =
--     1 − total_variation
select
    steps.model, steps.recipe,
    'greedy' as decoding,
    steps.trajectory, steps.prompt_id,
    0 as sample, -- noqa: RF04
    steps.step, steps.temperature,
    1 - least(steps.total_variation, 1) as acceptance
from stg_decoding_steps as steps
inner join variant_temperatures using (model, recipe, temperature)
left join trajectory_ends as ends (model, recipe, prompt_id, trajectory, end_step)
    using (model, recipe, prompt_id, trajectory)
where steps.trajectory in ('teacher_forced', 'own_text') and steps.step <= coalesce(ends.end_step, steps.step)
union all
select
    steps.model, steps.recipe,
    'sampled' as decoding,
    steps.trajectory, steps.prompt_id, steps.sample, steps.step, steps.temperature,
    1 - steps.total_variation as acceptance
from stg_sampled_steps as steps
semi join sampled_sequences using (model, recipe, trajectory)
