-- At which token does each pruned model first leave the dense one, and how sure was the dense model there?
-- grain: one row per model × recipe × prompt.
-- key: model, recipe, prompt_id
-- inputs: generations_without_noise, decoding_at_reference
-- how to read: at the flip both models still read the same tokens, so the columns describe one choice of both models.
--   rank_of_pruned_top1 is the dense model's rank of the token that the pruned one chose: 2 is a near miss. All columns
--   from first_flip_step on are NULL if the text never flips. The dense recipe and noise variants are excluded.
-- reason: a flip (first divergent token, 2311.01544) at a small margin is chance, at a large one damage.
select
    generations.model, generations.recipe, generations.prompt_id, generations.kind, generations.first_flip_step,
    flips.token_text_dense, flips.token_text_pruned, flips.margin_dense, flips.margin_pruned, flips.entropy_dense_nats,
    flips.p_dense_top1_dense, flips.p_dense_top1_pruned, flips.rank_of_pruned_top1, flips.kl_dense_pruned_nats
from generations_without_noise as generations
left join decoding_at_reference as flips
    on
        generations.model = flips.model and generations.recipe = flips.recipe
        and generations.prompt_id = flips.prompt_id and generations.first_flip_step = flips.step
        and flips.trajectory = 'free_running'
where generations.recipe <> 'dense'
order by generations.model, generations.recipe, generations.first_flip_step nulls last, generations.prompt_id
