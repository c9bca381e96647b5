-- How well local logit shifts predict KL spikes, by relative depth.
-- grain: one row per model × lens × sublayer × layer.
-- inputs: q42_depth_of_predictors
select model, lens, sublayer, layer, relative_depth, recipes, auc, auc_low, auc_high, top_decile_var_p_dz
from q42_depth_of_predictors
order by lens desc, model asc, sublayer asc, layer asc
