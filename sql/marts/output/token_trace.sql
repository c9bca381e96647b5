-- The two texts token by token, with the divergence at every token: the data of the token heat map.
-- grain: one row per model × recipe × prompt × step, at the reference temperature (T = 1 if measured).
-- key: model, recipe, prompt_id, step
-- inputs: decoding_at_reference, stg_generations
-- how to read: step t of the dense text and step t of the variant's own text, which may be longer; is_same_token
--   compares the two tokens. Each KL is of the step with this number: in the dense text (teacher forced), in the
--   variant's (own text), of the fork against the dense text, or with both models on their own texts (free running).
-- reason: shows at which word an answer begins to differ, and how sure the dense model was there.
-- columns:
--   token_text_dense: Token of the dense text; NULL after its end
--   token_text_pruned: Token that the pruned model writes on its own tokens, as text; NULL after its end
--   is_same_token: Whether both texts have the same token; NULL after the end of one
--   kl_teacher_forced_nats: KL(dense‖pruned) on the dense model's text [nats]
--   kl_own_text_nats: KL(dense‖pruned) on the variant's own text [nats]
--   kl_fork_nats: KL of the dense model on its text and on the fork; NULL if the text never flips [nats]
--   kl_free_running_nats: KL(dense‖pruned) with each model on its own tokens [nats]
with paired as (
    select
        model, recipe, prompt_id, step,
        any_value(token_text_dense) filter (where trajectory = 'teacher_forced') as token_text_dense,
        any_value(token_text_pruned) filter (where trajectory = 'own_text') as token_text_pruned,
        any_value(token_id_dense) filter (where trajectory = 'teacher_forced')
        = any_value(token_id_pruned) filter (where trajectory = 'own_text') as is_same_token,
        max(kl_dense_pruned_nats) filter (where trajectory = 'teacher_forced') as kl_teacher_forced_nats,
        max(kl_dense_pruned_nats) filter (where trajectory = 'own_text') as kl_own_text_nats,
        max(kl_dense_pruned_nats) filter (where trajectory = 'fork') as kl_fork_nats,
        max(kl_dense_pruned_nats) filter (where trajectory = 'free_running') as kl_free_running_nats,
        max(entropy_dense_nats) filter (where trajectory = 'teacher_forced') as entropy_dense_nats,
        max(margin_dense) filter (where trajectory = 'teacher_forced') as margin_dense
    from decoding_at_reference
    group by all
)

select
    paired.model, paired.recipe, paired.prompt_id, paired.step, paired.token_text_dense, paired.token_text_pruned,
    paired.is_same_token, paired.kl_teacher_forced_nats, paired.kl_own_text_nats, paired.kl_fork_nats,
    paired.kl_free_running_nats, paired.entropy_dense_nats, paired.margin_dense, generations.first_flip_step
from paired
left join stg_generations as generations using (model, recipe, prompt_id)
