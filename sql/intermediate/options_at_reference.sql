-- The rows of option_subspace at the reference temperature.
-- grain: one row per variant × question, noise left out.
-- key: model, recipe, prompt_id
-- inputs: stg_option_subspace, reference_temperature
-- how to read: the columns of stg_option_subspace that other views read. The dense recipe is included.
-- reason: summaries of questions must not mix temperatures; the order of the options does not depend on it.
select
    options.model, options.recipe, options.prompt_id, options.is_argmax_same, options.kendall_tau, options.mass_dense,
    options.kl_options_dense_pruned_nats, options.kl_dense_pruned_nats
from stg_option_subspace as options
inner join reference_temperature using (model, recipe, temperature)
