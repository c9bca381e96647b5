-- The damage of each candidate on each independent unit (window of a text, prompt or question), as a total and a size.
-- grain: one row per model × recipe × measure × unit.
-- key: model, recipe, measure, unit
-- inputs: search_candidates, text_token_losses, decoding_at_reference, stg_generations, options_at_reference
-- how to read: a measure's mean is the sum of totals over the sum of sizes. A free-running text that equals the dense
--   one to its end shares all of its steps.
-- reason: differences between candidates are paired by unit.
-- columns:
--   recipe: Name of the recipe
--   measure: kl_texts and perplexity over the tokens of texts; kl_prompts over teacher-forced steps; same_steps over
--     free-running texts; same_options over the study's questions [label]
--   unit: Window of a text under its conditions, prompt or question [label]
--   total: Sum over the unit: KL(dense‖pruned), or the loss for perplexity; for same_steps the steps before the first
--     different token; for same_options 1 if the dense model's option is chosen, else 0 [nats, steps or choices]
--   size: Number of tokens or steps in the sum; 1 for same_steps and same_options
--   largest_total: Largest possible total: the steps of the dense text for same_steps, 1 for same_options, else NULL
--     [steps or choices]
with on_texts as (
    select
        losses.model, losses.recipe,
        concat_ws(' ', losses.text_id, losses.text_hash, losses.context, losses.stride, losses.window_id) as unit,
        sum(losses.kl) as kl_nats,
        sum(losses.nll_pruned) as nll_nats,
        count(*) as tokens
    from text_token_losses as losses
    semi join search_candidates using (model, recipe)
    group by
        losses.model, losses.recipe, losses.text_id, losses.text_hash, losses.context, losses.stride, losses.window_id
),

dense_lengths as (
    select
        model, prompt_id,
        coalesce(end_step + 1, len(token_ids)) as steps
    from stg_generations
    where recipe = 'dense'
)

-- Row i gets entry i of every unnested list.
select
    model, recipe,
    unnest(['kl_texts', 'perplexity']) as measure,
    unit,
    unnest([kl_nats, nll_nats]) as total,
    tokens as size,
    cast(null as bigint) as largest_total
from on_texts

union all

select
    steps.model, steps.recipe,
    'kl_prompts' as measure,
    steps.prompt_id as unit,
    sum(cast(steps.kl_dense_pruned_nats as double)) as total,
    count(*) as size,
    null as largest_total
from decoding_at_reference as steps
semi join search_candidates using (model, recipe)
where steps.trajectory = 'teacher_forced'
group by all

union all

select
    generations.model, generations.recipe,
    'same_steps' as measure,
    generations.prompt_id as unit,
    cast(coalesce(generations.first_flip_step, dense_lengths.steps) as double) as total,
    1 as size,
    dense_lengths.steps as largest_total
from stg_generations as generations
semi join search_candidates using (model, recipe)
inner join dense_lengths using (model, prompt_id)

union all

select
    options.model, options.recipe,
    'same_options' as measure,
    options.prompt_id as unit,
    cast(options.is_argmax_same as double) as total,
    1 as size,
    1 as largest_total
from options_at_reference as options
semi join search_candidates using (model, recipe)
