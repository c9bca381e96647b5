-- How well does Theorem 2, Var_r(Δz) / (2T²), estimate 1 − cos of the probabilities?
-- grain: one row per model × recipe × scope × lens × temperature × sublayer.
-- key: model, recipe, scope, lens, temperature, sublayer
-- inputs: estimate_fit
-- how to read: the variance is weighted by r = p² / ‖p‖² of the dense model. ratio is estimate / truth: above 1 the
--   estimate overshoots. Rows without a truth (dense, untouched sublayers in local scope) are excluded; correlations
--   are NULL below 10 points or if one side does not vary.
-- reason: the paper's estimate overshoots if the truth is above 0.05; q05 shows from which deviation on.
select
    fit.model, fit.recipe, fit.scope, fit.lens, fit.temperature, fit.sublayer, fit.n, fit.pearson_log10, fit.pearson,
    fit.ratio_median, fit.ratio_p10, fit.ratio_p90, fit.share_within_10_percent, fit.worst_layer,
    fit.worst_layer_ratio_median
from estimate_fit as fit
where fit.theorem = 'T2 p'
order by fit.model, fit.recipe, fit.scope, fit.lens, fit.temperature, fit.sublayer
