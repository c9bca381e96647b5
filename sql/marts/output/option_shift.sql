-- Each answer option of each question on both sides: logit, probability and rank.
-- grain: one row per model × recipe × question × temperature × option.
-- key: model, recipe, prompt_id, temperature, option_index
-- inputs: stg_option_subspace, noise_variants
-- how to read: p_options_* are renormalised over the options, p_full_* are in the whole vocabulary; ranks are in the
--   whole vocabulary, 1 is first. option_index counts from 0 in the question's order; is_gold is NULL if the study
--   names no right option. Noise variants are excluded.
-- reason: charts and joins need the lists of option_subspace with one option per row.
-- columns:
--   option_index: Index of the option in its question, from 0
--   option: Label of the option
--   p_options_dense: Dense probability of the option, renormalised over the options [probability]
--   p_options_pruned: Pruned probability of the option, renormalised over the options [probability]
--   p_full_dense: Dense probability of the option in the whole vocabulary [probability]
--   p_full_pruned: Pruned probability of the option in the whole vocabulary [probability]
--   rank_dense: Dense rank of the option in the whole vocabulary; 1 is first [rank]
--   rank_pruned: Pruned rank of the option in the whole vocabulary; 1 is first [rank]
--   logit_dense: Dense logit of the option [logit]
--   logit_pruned: Pruned logit of the option [logit]
--   is_gold: Whether it is the right option; NULL if the study names none = option = gold
with unnested as (
    select
        questions.model, questions.recipe, questions.prompt_id, questions.temperature, questions.gold,
        -- Row i gets entry i of every unnested list.
        unnest(range(len(questions.options))) as option_index,
        unnest(questions.options) as option,
        unnest(questions.p_options_dense) as p_options_dense,
        unnest(questions.p_options_pruned) as p_options_pruned,
        unnest(questions.p_full_dense) as p_full_dense,
        unnest(questions.p_full_pruned) as p_full_pruned,
        unnest(questions.rank_dense) as rank_dense,
        unnest(questions.rank_pruned) as rank_pruned,
        unnest(questions.logits_dense) as logit_dense,
        unnest(questions.logits_pruned) as logit_pruned
    from stg_option_subspace as questions
    anti join noise_variants using (model, recipe)
)

select
    model, recipe, prompt_id, temperature,
    cast(option_index as integer) as option_index,
    option, p_options_dense, p_options_pruned, p_full_dense, p_full_pruned, rank_dense, rank_pruned, logit_dense,
    logit_pruned,
    option = gold as is_gold
from unnested
