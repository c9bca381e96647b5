-- How many variants break on each prompt, how early, and which prompts break first.
-- grain: one row per model × prompt with a text of the dense model or of a pruned variant.
-- key: model, prompt_id
-- inputs: stg_generations, generations_without_noise, decoding_at_reference
-- how to read: counts are of pruned variants with a text for the prompt. first_flip_step_median is over these variants.
--   One that never flips counts as later than any step; if that is the median, it is NULL. place_in_order is 1 for the
--   prompt that breaks first: by first_flip_step_median, then by the shares of variants that flip and that loop, then
--   by kl_step0_median_nats, then by name. A measure that was not taken is NULL. Noise is excluded.
-- reason: with hundreds of prompts a reader starts from those that break first; the report lists them.
-- columns:
--   steps: Steps of the dense model's text up to its end [steps]
--   variants: Pruned variants with a text for this prompt [variants]
--   variants_flipped: Those whose text differs from the dense one [variants]
--   variants_collapsed: Those whose text falls into a loop [variants]
--   first_flip_step_min: Earliest first flip of a variant; NULL if none flips [step]
--   first_flip_step_median: Median first flip over the variants; NULL if most never flip [step]
--   kl_step0_median_nats: Median KL(dense‖pruned) over variants at the first generated token [nats]
--   variants_graded: Variants whose answer could be graded [variants]
--   variants_correct: Variants with the right answer [variants]
--   is_correct_dense: Whether the dense model gives the right answer; NULL without a known answer
--   place_in_order: Place among the model's prompts; 1 breaks first
--   place_in_kind: Place among the prompts of its kind; 1 breaks first
with prompts as (
    select
        model, prompt_id,
        any_value(kind) as kind,
        max(coalesce(end_step + 1, len(token_ids))) filter (where recipe = 'dense') as steps,
        bool_or(is_correct) filter (where recipe = 'dense') as is_correct_dense
    from stg_generations
    group by all
),

texts as (
    select
        model, prompt_id,
        count(*) as variants,
        count(first_flip_step) as variants_flipped,
        count(collapse_step) as variants_collapsed,
        min(first_flip_step) as first_flip_step_min,
        -- Infinity means "never" inside the median and becomes NULL below.
        median(coalesce(cast(first_flip_step as double), cast('inf' as double))) as first_flip_step_median,
        count(is_correct) as variants_graded,
        cast(count_if(is_correct) as bigint) as variants_correct
    from generations_without_noise
    where recipe <> 'dense'
    group by all
),

first_steps as (
    select
        model, prompt_id,
        median(kl_dense_pruned_nats) as kl_step0_median_nats
    from decoding_at_reference
    where recipe <> 'dense' and trajectory = 'teacher_forced' and step = 0
    group by all
),

ordered as (
    select
        prompts.*,
        coalesce(texts.variants, 0) as variants,
        coalesce(texts.variants_flipped, 0) as variants_flipped,
        coalesce(texts.variants_collapsed, 0) as variants_collapsed,
        texts.first_flip_step_min,
        nullif(texts.first_flip_step_median, cast('inf' as double)) as first_flip_step_median,
        first_steps.kl_step0_median_nats,
        coalesce(texts.variants_graded, 0) as variants_graded,
        coalesce(texts.variants_correct, 0) as variants_correct,
        row_number() over (
            partition by prompts.model
            order by
                texts.first_flip_step_median asc nulls last, texts.variants_flipped / texts.variants desc nulls last,
                texts.variants_collapsed / texts.variants desc nulls last,
                first_steps.kl_step0_median_nats desc nulls last, prompts.prompt_id asc
        ) as place_in_order
    from prompts
    left join texts using (model, prompt_id)
    left join first_steps using (model, prompt_id)
)

select
    model, prompt_id, kind, steps, variants, variants_flipped, variants_collapsed, first_flip_step_min,
    first_flip_step_median, kl_step0_median_nats, variants_graded, variants_correct, is_correct_dense, place_in_order,
    row_number() over (partition by model, kind order by place_in_order) as place_in_kind
from ordered
