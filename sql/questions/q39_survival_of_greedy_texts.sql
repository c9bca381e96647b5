-- For how many tokens do greedy texts equal the dense model's, and do margin and shift predict where that ends?
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: greedy_survival_summary
-- how to read: the columns are those of greedy_survival_summary. A variant whose texts stay equal as long as those of
--   rounding alone (`_noise`) does not differ from it. If the whole interval of brier_skill is above 0, flips can be
--   predicted from one forced pass: from the dense margin and Var_p(Δz), at later steps and in other prompts than those
--   of the fit. The dense recipe and noise variants are excluded.
-- reason: the first flip of a greedy text is the first teacher-forced disagreement, so no text needs to be generated.
-- columns:
--   texts_flipped_noise: Most texts that flip under rounding alone; NULL if no noise was measured [texts]
--   equal_tokens_95_noise: Fewest tokens for which 95 % of the texts stay equal under rounding alone [token]
with floors as (
    select
        model,
        max(texts_flipped) as texts_flipped_noise,
        min(equal_tokens_95) as equal_tokens_95_noise
    from greedy_survival_summary
    where is_noise
    group by all
)

select
    variants.model, variants.recipe, variants.texts, variants.texts_flipped, variants.steps, variants.equal_tokens_95,
    variants.equal_tokens_95_low, variants.equal_tokens_95_high, variants.equal_tokens_50, variants.equal_tokens_50_low,
    variants.equal_tokens_50_high, variants.predicted_steps, variants.predicted_flips, variants.measured_flips,
    variants.brier_score, variants.brier_score_constant, variants.brier_skill, variants.brier_skill_low,
    variants.brier_skill_high, variants.calibration_error, variants.calibration_error_expected,
    floors.texts_flipped_noise, floors.equal_tokens_95_noise
from greedy_survival_summary as variants
left join floors using (model)
where not variants.is_noise
order by variants.model, variants.texts_flipped, variants.recipe
