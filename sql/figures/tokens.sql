-- The first 64 generated tokens of the four prompts that break first, with their KL.
-- grain: one row per model × prompt × recipe × step.
-- inputs: token_trace, prompt_summary
-- how to read: the prompts are those of each kind that break first, then those that break second.
select
    traces.model, traces.recipe, traces.prompt_id, traces.step,
    left(traces.token_text_dense, 60) as token_text_dense,
    left(traces.token_text_pruned, 60) as token_text_pruned,
    traces.is_same_token, traces.kl_own_text_nats, traces.kl_teacher_forced_nats, traces.first_flip_step
from token_trace as traces
left join prompt_summary as prompts using (model, prompt_id)
where traces.recipe <> 'dense' and traces.step < 64
qualify
    dense_rank() over (
        partition by traces.model
        order by prompts.place_in_kind nulls last, prompts.place_in_order, traces.prompt_id
    ) <= 4
order by traces.model, traces.prompt_id, traces.recipe, traces.step
