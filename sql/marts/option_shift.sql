-- Each answer option of each question on both sides: logit, probability and rank.
-- grain: one row per model × recipe × question × temperature × option.
-- key: model, recipe, prompt_id, temperature, option_index
-- inputs: stg_option_subspace
-- how to read: p_options_* are renormalised over the options, p_full_* are in the whole vocabulary; ranks are in the
--   whole vocabulary, 1 is first. option_index runs from 0 in the question's order; is_gold is NULL without a gold.
-- reason: the lists of option_subspace, one option a row, so that they can be drawn and joined.
with

unnested as (
    select
        model,
        recipe,
        prompt_id,
        temperature,
        gold,
        -- Lists that are unnested in one select run in step.
        unnest(range(len(options))) as option_index,
        unnest(options) as option,
        unnest(p_options_dense) as p_options_dense,
        unnest(p_options_pruned) as p_options_pruned,
        unnest(p_full_dense) as p_full_dense,
        unnest(p_full_pruned) as p_full_pruned,
        unnest(rank_dense) as rank_dense,
        unnest(rank_pruned) as rank_pruned,
        unnest(logits_dense) as logit_dense,
        unnest(logits_pruned) as logit_pruned
    from stg_option_subspace
)

select
    model,
    recipe,
    prompt_id,
    temperature,
    cast(option_index as integer) as option_index,
    option,
    p_options_dense,
    p_options_pruned,
    p_full_dense,
    p_full_pruned,
    rank_dense,
    rank_pruned,
    logit_dense,
    logit_pruned,
    option = gold as is_gold
from unnested
