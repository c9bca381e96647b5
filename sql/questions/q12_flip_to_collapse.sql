-- How many steps lie between the first flip and the collapse into a loop?
-- grain: one row per model × recipe × prompt.
-- key: model, recipe, prompt_id
-- inputs: generations_without_noise, stg_generations
-- how to read: steps_to_collapse is NULL if the text never flips or never loops, and if the loop was complete before
--   the flip, in which case the dense text loops too. *_dense are the dense model's figures for the same prompt, the
--   level of repetition without pruning. The dense recipe and noise variants are excluded.
-- reason: distinguishes a model that continues well on another path from one that breaks down.
-- columns:
--   steps_to_collapse: Steps from the first flip to the loop; NULL if one is missing or the loop came first [steps] =
--     collapse_step − first_flip_step
--   collapse_step_dense: Step at which the dense text completes a loop; NULL if it does not [step]
--   distinct_1_dense: Share of distinct tokens in the dense text [share]
--   distinct_2_dense: Share of distinct 2-grams in the dense text [share]
--   repeat_rate_dense: Share of repeated 3-grams in the dense text [share]
select
    pruned.model, pruned.recipe, pruned.prompt_id, pruned.kind, pruned.first_flip_step, pruned.collapse_step,
    case
        when pruned.collapse_step >= pruned.first_flip_step then pruned.collapse_step - pruned.first_flip_step
    end as steps_to_collapse,
    pruned.distinct_1, pruned.distinct_2, pruned.repeat_rate,
    dense.collapse_step as collapse_step_dense,
    dense.distinct_1 as distinct_1_dense,
    dense.distinct_2 as distinct_2_dense,
    dense.repeat_rate as repeat_rate_dense
from generations_without_noise as pruned
left join stg_generations as dense
    on pruned.model = dense.model and pruned.prompt_id = dense.prompt_id and dense.recipe = 'dense'
where pruned.recipe <> 'dense'
order by pruned.model, pruned.recipe, steps_to_collapse nulls last, pruned.prompt_id
