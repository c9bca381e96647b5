-- Answer options of each question on both sides.
-- grain: one row per pruned variant × question × option.
-- inputs: option_shift, stg_option_subspace, reference_temperature
select
    options.model, options.recipe, options.prompt_id, options.option, options.p_options_dense, options.p_options_pruned,
    options.p_full_dense, options.p_full_pruned, options.rank_dense, options.rank_pruned, questions.mass_dense,
    questions.mass_pruned, questions.kl_options_dense_pruned_nats, questions.kl_dense_pruned_nats, questions.gold,
    questions.is_argmax_same
from option_shift as options
inner join stg_option_subspace as questions using (model, recipe, prompt_id, temperature)
semi join reference_temperature using (model, recipe, temperature)
where options.recipe <> 'dense'
order by options.model, options.recipe, options.prompt_id, options.option_index
