-- Whether each variant answers each prompt as it should: in the dense text, the fork and its own text.
-- grain: one row per pruned or noise variant × prompt × metric.
-- key: model, recipe, prompt_id, metric
-- inputs: stg_generations, stg_option_subspace
-- how to read: agreement takes the dense model's answer as the right one. Under exact_match, prompts with options are
--   left out unless the dense model is right beyond a guess: Wilson's interval of its share of right answers to them
--   must be above 1/options. Where nothing flips, the fork is NULL.
-- reason: a lucky guess is no answer that can be lost.
-- columns:
--   metric: exact_match, or agreement with the dense model's answers
--   guess: Chance that an unrelated answer is the same, 1/options; 0 without options [share]
--   is_right_dense: Whether the dense text answers right; NULL where that is not known
--   is_right_fork: Whether the fork does
--   is_right_pruned: Whether the variant's text does
with

guesses as (
    select distinct
        model,
        prompt_id,
        1 / len(options) as guess
    from stg_option_subspace
),

answers as (
    select
        pruned.model,
        pruned.recipe,
        pruned.prompt_id,
        pruned.first_flip_step,
        pruned.text_fork,
        coalesce(guesses.guess, 0) as guess,
        unnest(['exact_match', 'agreement']) as metric,
        unnest([dense.is_correct, case when dense.answer is not null then true end]) as is_right_dense,
        unnest([pruned.is_correct_fork, dense.answer is not distinct from pruned.answer_fork]) as is_right_fork,
        unnest([pruned.is_correct, dense.answer is not distinct from pruned.answer]) as is_right_pruned
    from stg_generations as pruned
    inner join stg_generations as dense
        on pruned.model = dense.model and pruned.prompt_id = dense.prompt_id and dense.recipe = 'dense'
    left join guesses on pruned.model = guesses.model and pruned.prompt_id = guesses.prompt_id
    where pruned.recipe <> 'dense'
)

select
    model,
    recipe,
    prompt_id,
    first_flip_step,
    text_fork,
    guess,
    metric,
    is_right_dense,
    is_right_fork,
    is_right_pruned
from answers
window of_options as (partition by model, recipe, metric, guess > 0)
qualify
    metric = 'agreement' or guess = 0
    or wilson_interval(count_if(is_right_dense) over of_options, count(is_right_dense) over of_options)[1]
    > avg(guess) over of_options
