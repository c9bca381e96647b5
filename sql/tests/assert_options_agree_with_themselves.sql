-- The lists of each question are consistent: lengths, sums, masses, the most likely label, ranks in the order of
-- logits.
-- grain: one row per question that contradicts itself.
-- inputs: stg_option_subspace
-- reason: the lists of a row are computed separately, and no schema relates them.
select model, recipe, prompt_id, temperature
from stg_option_subspace
where
    not (
        len(options) = len(option_token_ids)
        and len(options) = len(logits_dense)
        and len(options) = len(logits_pruned)
        and len(options) = len(p_full_dense)
        and len(options) = len(p_full_pruned)
        and len(options) = len(p_options_dense)
        and len(options) = len(p_options_pruned)
        and len(options) = len(rank_dense)
        and len(options) = len(rank_pruned)
    )
    or abs(list_sum(p_options_dense) - 1) > 1e-5
    or abs(list_sum(p_options_pruned) - 1) > 1e-5
    or abs(list_sum(p_full_dense) - mass_dense) > 1e-5 * mass_dense
    or abs(list_sum(p_full_pruned) - mass_pruned) > 1e-5 * mass_pruned
    or argmax_dense <> options[list_position(logits_dense, list_max(logits_dense))]
    or argmax_pruned <> options[list_position(logits_pruned, list_max(logits_pruned))]
    or is_argmax_same <> (argmax_dense = argmax_pruned)
    or (gold is not null and not list_contains(options, gold))
    or list_min(rank_dense) <> rank_dense[list_position(logits_dense, list_max(logits_dense))]
    or list_min(rank_pruned) <> rank_pruned[list_position(logits_pruned, list_max(logits_pruned))]
