-- For how many tokens do greedy texts stay the dense model's own, and do margin and shift say where they stop?
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: greedy_survival_summary
-- how to read: the columns are those of greedy_survival_summary; noise variants have their rows here, because they are
--   the null: a variant whose texts stay equal no less long than theirs is not told from rounding. brier_skill above 0
--   with its whole interval says that a flip can be foreseen from one forced pass: from the dense model's margin and
--   Var_p(Δz), at later steps and in other prompts than those of the fit.
-- reason: the first flip of a greedy text is the first teacher-forced disagreement, so that no text needs generating.
select
    model,
    recipe,
    is_noise,
    texts,
    texts_flipped,
    steps,
    equal_tokens_95,
    equal_tokens_95_low,
    equal_tokens_95_high,
    equal_tokens_50,
    equal_tokens_50_low,
    equal_tokens_50_high,
    predicted_steps,
    predicted_flips,
    measured_flips,
    brier_score,
    brier_score_constant,
    brier_skill,
    brier_skill_low,
    brier_skill_high,
    calibration_error,
    calibration_error_expected
from greedy_survival_summary
order by model, is_noise, texts_flipped, recipe
