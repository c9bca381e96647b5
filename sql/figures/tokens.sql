-- The first 64 generated tokens of the first four prompts, with their KL.
-- grain: one row per model × prompt × recipe × step.
-- inputs: token_trace
select
    model,
    recipe,
    prompt_id,
    step,
    left(token_text_dense, 60) as token_text_dense,
    left(token_text_pruned, 60) as token_text_pruned,
    is_same_token,
    kl_free_running_nats,
    kl_teacher_forced_nats,
    first_flip_step
from token_trace
where recipe <> 'dense' and step < 64
qualify dense_rank() over (partition by model order by prompt_id) <= 4
order by model, prompt_id, recipe, step
