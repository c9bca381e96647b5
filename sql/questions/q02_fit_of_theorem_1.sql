-- How well does Theorem 1, ‖Δv⊥‖² / (2‖v‖²), estimate 1 − cos in h and in z?
-- grain: one row per model × recipe × scope × lens × sublayer × theorem.
-- key: model, recipe, scope, lens, sublayer, theorem
-- inputs: estimate_fit, reference_temperature
-- how to read: `T1 h` and `T1 z` do not depend on T, so each point counts once, not once per temperature. ratio is
--   estimate / truth: above 1 the estimate overshoots. Rows without a truth (dense, untouched sublayers in local scope)
--   are excluded; correlations are NULL below 10 points or if one side does not vary.
-- reason: Theorem 1 needs a small shift orthogonal to the vector; worst_layer shows where that fails, usually in the
--   first or the last layer.
select
    fit.model, fit.recipe, fit.scope, fit.lens, fit.sublayer, fit.theorem, fit.n, fit.pearson_log10, fit.pearson,
    fit.ratio_median, fit.ratio_p10, fit.ratio_p90, fit.share_within_10_percent, fit.worst_layer,
    fit.worst_layer_ratio_median
from estimate_fit as fit
inner join reference_temperature using (model, recipe, temperature)
where fit.theorem in ('T1 h', 'T1 z')
order by fit.model, fit.recipe, fit.theorem, fit.scope, fit.lens, fit.sublayer
