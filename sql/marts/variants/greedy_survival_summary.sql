-- For how many tokens the greedy texts of each variant equal the dense model's, and how well its flips are predicted.
-- grain: one row per variant with teacher-forced steps; noise variants included, dense excluded.
-- key: model, recipe
-- inputs: greedy_survival, greedy_hazards
-- how to read: equal_tokens_95 is the number of tokens for which at least 95 % of the texts stay equal;
--   equal_tokens_95_low is the number for which even the lower end of that share's interval is at least 95 %. The
--   latter is NULL below 73 texts, which cannot show it even if none flips. A number that equals `steps` means: at
--   least as long as was measured. The hazard is judged by its predictions for later steps of other prompts
--   (greedy_hazards). brier_skill is the share of the constant hazard's squared error that margin and shift remove; it
--   is 0 if they are useless. Compare calibration_error with calibration_error_expected, which exactly right
--   predictions would show. Skill and calibration are NULL below 10 flips or 10 kept steps. Noise variants are the
--   null: what rounding alone does.
-- reason: the length up to which a text can be trusted to equal the dense model's is one number, and needs no
--   generation.
-- columns:
--   texts: Texts, one per prompt [texts]
--   texts_flipped: Texts that flip before they end [texts]
--   steps: Steps to which a text was at risk [steps]
--   equal_tokens_95: Tokens for which at least 95 % of the texts stay equal [token]
--   equal_tokens_95_low: Lower end of its 95 % interval, from that of the share; NULL below 73 texts [token]
--   equal_tokens_95_high: Upper end of it; NULL beyond the last step [token]
--   equal_tokens_50: Tokens for which at least half of the texts stay equal [token]
--   equal_tokens_50_low: Lower end of its 95 % interval, from that of the share [token]
--   equal_tokens_50_high: Upper end of it; NULL beyond the last step [token]
--   predicted_steps: Steps whose flip was predicted [steps]
--   predicted_flips: Sum of their flip_probability, to which measured_flips must be close [steps]
--   measured_flips: Those at which the two models differ [steps]
--   brier_score: Mean of (is_flip − flip_probability)² [probability²]
--   brier_score_constant: The same for flip_probability_constant [probability²]
--   brier_skill: Share of the constant hazard's score that is saved [share] = 1 − brier_score / brier_score_constant
--   brier_skill_low: Lower end of its 95 % interval, Student's t over prompts [share]
--   calibration_error: Mean over steps of |predicted − measured share of flips| in their decile [share]
--   calibration_error_expected: The same if every flip_probability is exact and steps are independent [share]
with lengths as (
    select
        model, recipe, is_noise,
        max(texts_at_risk) as texts,
        cast(sum(flips) as bigint) as texts_flipped,
        max(step) + 1 as steps,
        min(step) filter (where equal_share < 0.95) as equal_tokens_95,
        min(step) filter (where equal_share_low < 0.95) as equal_tokens_95_low,
        min(step) filter (where equal_share_high < 0.95) as equal_tokens_95_high,
        min(step) filter (where equal_share < 0.5) as equal_tokens_50,
        min(step) filter (where equal_share_low < 0.5) as equal_tokens_50_low,
        min(step) filter (where equal_share_high < 0.5) as equal_tokens_50_high
    from greedy_survival
    group by all
),

parts as (
    select
        model, recipe, prompt_id, decile,
        count(*) as steps,
        count(*) filter (where is_flip) as flips,
        sum(flip_probability) as predicted,
        sum(flip_probability * (1 - flip_probability)) as variance,
        sum((cast(is_flip as integer) - flip_probability) ** 2) as error,
        sum((cast(is_flip as integer) - flip_probability_constant) ** 2) as error_constant
    from greedy_hazards
    group by all
),

prompts as (
    select
        model, recipe, prompt_id,
        sum(steps) as steps,
        sum(flips) as flips,
        sum(predicted) as predicted,
        sum(error) as error,
        sum(error_constant) as error_constant
    from parts
    group by all
),

scores as (
    select
        model, recipe,
        cast(sum(steps) as bigint) as predicted_steps,
        sum(predicted) as predicted_flips,
        cast(sum(flips) as bigint) as measured_flips,
        sum(error) / sum(steps) as brier_score,
        sum(error_constant) / sum(steps) as brier_score_constant,
        least(sum(flips), sum(steps - flips)) >= 10 as is_enough,
        1 - sum(error) / sum(error_constant) as skill,
        half_width_of_mean(error, error_constant) as half_width
    from prompts
    group by all
),

deciles as (
    select
        model, recipe, decile,
        sum(steps) as steps,
        abs(sum(predicted - flips)) as difference,
        -- The mean of |x| is √(2/π) standard deviations of a normal x.
        sqrt(2 / pi() * sum(variance)) as difference_expected
    from parts
    group by all
),

calibrations as (
    select
        model, recipe,
        sum(difference) / sum(steps) as calibration_error,
        sum(difference_expected) / sum(steps) as calibration_error_expected
    from deciles
    group by all
)

select
    lengths.model, lengths.recipe, lengths.is_noise, lengths.texts, lengths.texts_flipped, lengths.steps,
    coalesce(lengths.equal_tokens_95, lengths.steps) as equal_tokens_95,
    case
        when wilson_interval(lengths.texts, lengths.texts)[1] >= 0.95
            then coalesce(lengths.equal_tokens_95_low, lengths.steps)
    end as equal_tokens_95_low,
    lengths.equal_tokens_95_high,
    coalesce(lengths.equal_tokens_50, lengths.steps) as equal_tokens_50,
    coalesce(lengths.equal_tokens_50_low, lengths.steps) as equal_tokens_50_low,
    lengths.equal_tokens_50_high, scores.predicted_steps, scores.predicted_flips, scores.measured_flips,
    scores.brier_score, scores.brier_score_constant,
    case when scores.is_enough then scores.skill end as brier_skill,
    case when scores.is_enough then scores.skill - scores.half_width end as brier_skill_low,
    case when scores.is_enough then scores.skill + scores.half_width end as brier_skill_high,
    case when scores.is_enough then calibrations.calibration_error end as calibration_error,
    case when scores.is_enough then calibrations.calibration_error_expected end as calibration_error_expected
from lengths
left join scores using (model, recipe)
left join calibrations using (model, recipe)
