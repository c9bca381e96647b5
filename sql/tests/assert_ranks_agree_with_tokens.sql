-- At each step the ranks of the two top tokens agree with the tokens: rank 1 on the other side means the same token.
-- grain: one row per decoding step that contradicts itself.
-- inputs: stg_decoding_steps, stg_models
-- reason: with greedy decoding the emitted tokens are the top tokens of the row's distributions.
select steps.model, steps.recipe, steps.prompt_id, steps.trajectory, steps.step, steps.temperature
from stg_decoding_steps as steps
left join stg_models as models using (model)
where
    -- Tokens come from decoding, ranks from dense logits plus shift: rounding may reverse a tie.
    (
        steps.is_same_token <> steps.is_top1_same
        -- At the flip the fork is made to take the variant's token.
        and steps.trajectory <> 'fork'
        and least(steps.margin_dense, steps.margin_pruned) > tie_margin(models.dtype, steps.recipe)
    )
    or steps.is_top1_same <> (steps.rank_of_dense_top1 = 1)
    or steps.is_top1_same <> (steps.rank_of_pruned_top1 = 1)
