-- The two texts token by token, with the divergence at every token: the data of the token heat map.
-- grain: one row per model × recipe × prompt × step, at the reference temperature (T = 1 where measured).
-- key: model, recipe, prompt_id, step
-- inputs: decoding_at_reference, stg_generations
-- how to read: token_text_pruned is what the pruned model writes free running; is_same_token compares the token ids.
--   kl_teacher_forced_nats is on the dense model's tokens, kl_free_running_nats with each model on its own tokens.
-- reason: shows at which word an answer begins to differ, and how sure the dense model was there.
-- columns:
--   token_text_pruned: Token that the pruned model writes on its own tokens, as text
--   kl_teacher_forced_nats: KL(dense‖pruned) on the dense model's tokens [nats]
--   kl_free_running_nats: KL(dense‖pruned) with each model on its own tokens [nats]
with

paired as (
    select
        model,
        recipe,
        prompt_id,
        step,
        any_value(token_text_dense) filter (where trajectory = 'free_running') as token_text_dense,
        any_value(token_text_pruned) filter (where trajectory = 'free_running') as token_text_pruned,
        bool_and(is_same_token) filter (where trajectory = 'free_running') as is_same_token,
        max(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced') as kl_teacher_forced_nats,
        max(kl_dense_pruned_nats) filter (where trajectory = 'free_running') as kl_free_running_nats,
        max(entropy_dense_nats) filter (where trajectory = 'free_running') as entropy_dense_nats,
        max(margin_dense) filter (where trajectory = 'free_running') as margin_dense
    from decoding_at_reference
    group by model, recipe, prompt_id, step
)

select
    paired.model,
    paired.recipe,
    paired.prompt_id,
    paired.step,
    paired.token_text_dense,
    paired.token_text_pruned,
    paired.is_same_token,
    paired.kl_teacher_forced_nats,
    paired.kl_free_running_nats,
    paired.entropy_dense_nats,
    paired.margin_dense,
    generations.first_flip_step
from paired
left join stg_generations as generations
    on
        paired.model = generations.model
        and paired.recipe = generations.recipe
        and paired.prompt_id = generations.prompt_id
