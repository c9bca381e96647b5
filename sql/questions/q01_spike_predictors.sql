-- Which layers' Var_p(Δz), measured locally, predict KL spikes at the output?
-- grain: one row per model × recipe × layer × sublayer × lens.
-- key: model, recipe, layer, sublayer, lens
-- inputs: spike_predictors
-- how to read: the sublayers of a variant by auc, the best first. spike_predictors says what a spike is, how numbers
--   and intervals are made, and when they are NULL.
-- reason: a sublayer whose local variance predicts the spikes is where pruning hurts, and serves as a cheap probe.
select
    model, recipe, layer, sublayer, lens, n, n_prompts, n_spikes, spearman, spearman_low, spearman_high, auc, auc_low,
    auc_high, top_decile_lift, top_decile_lift_low, top_decile_lift_high, top_decile_var_p_dz
from spike_predictors
order by model asc, recipe asc, lens asc, auc desc nulls last, layer asc, sublayer asc
