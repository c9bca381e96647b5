-- Texts of each variant by kind of prompt: how many differ, fall into a loop and answer right, and KL at step 0.
-- grain: one row per model × recipe × kind, dense included.
-- inputs: generations_without_noise, decoding_at_reference
-- how to read: first_flip_step_median counts a text that never flips as later than any step, and is NULL if that is the
--   median. Lists are the ends of 95 % intervals of shares of prompts, or of graded ones (wilson_interval).
select
    texts.model, texts.recipe, texts.kind,
    count(*) as prompts,
    count(texts.first_flip_step) as prompts_flipped,
    count(texts.collapse_step) as prompts_collapsed,
    count(texts.is_correct) as prompts_graded,
    wilson_interval(count(texts.first_flip_step), count(*)) as flipped_ends,
    wilson_interval(count(texts.collapse_step), count(*)) as collapsed_ends,
    wilson_interval(count_if(texts.is_correct), count(texts.is_correct)) as correct_ends,
    coalesce(cast(count_if(texts.is_correct) as bigint), 0) as prompts_correct,
    nullif(
        median(coalesce(cast(texts.first_flip_step as double), cast('inf' as double))), cast('inf' as double)
    ) as first_flip_step_median,
    avg(steps.kl_dense_pruned_nats) as kl_step0_nats
from generations_without_noise as texts
left join decoding_at_reference as steps
    on
        texts.model = steps.model and texts.recipe = steps.recipe and texts.prompt_id = steps.prompt_id
        and steps.trajectory = 'teacher_forced' and steps.step = 0
group by all
order by texts.model, texts.recipe, texts.kind
