-- Every token of the dense text and of the variant's own, with its divergence.
-- grain: one row per pruned variant × prompt × trajectory × step.
-- inputs: decoding_at_reference
select
    model, recipe, prompt_id, trajectory, step, token_text_dense, token_text_pruned, is_same_token,
    kl_dense_pruned_nats, entropy_dense_nats, entropy_pruned_nats, margin_dense, margin_pruned, rank_of_dense_top1,
    one_minus_cos_h, one_minus_cos_z, one_minus_cos_p
from decoding_at_reference
where recipe <> 'dense' and trajectory in ('teacher_forced', 'own_text')
order by model, recipe, prompt_id, trajectory, step
