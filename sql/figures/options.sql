-- Probabilities of the options of the six questions that break first, among the options and in the whole vocabulary.
-- grain: one row per model × question × recipe × option.
-- inputs: option_shift, reference_temperature, prompt_summary
-- how to read: the questions are the first by place_in_order of prompt_summary.
select
    option_shift.model, option_shift.recipe, option_shift.prompt_id, option_shift.temperature,
    option_shift.option_index, option_shift.option, option_shift.is_gold, option_shift.p_options_dense,
    option_shift.p_options_pruned, option_shift.p_full_dense, option_shift.p_full_pruned, option_shift.rank_dense,
    option_shift.rank_pruned
from option_shift
semi join reference_temperature using (model, recipe, temperature)
left join prompt_summary as prompts using (model, prompt_id)
where option_shift.recipe <> 'dense'
qualify
    dense_rank() over (
        partition by option_shift.model
        order by prompts.place_in_order nulls last, option_shift.prompt_id
    ) <= 6
order by option_shift.model, option_shift.prompt_id, option_shift.recipe, option_shift.option_index
