-- The table layer_transitions as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × prompt × position × layer × sublayer × scope × lens × temperature.
-- key: model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature
-- inputs: layer_transitions
-- how to read: rows of scope isolated carry the layer and sublayer that were swapped, and are measured at the output.
--   The cosines are for reading; small shifts must be compared in one_minus_cos_*, which keeps its digits.
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
--   cos_h: Cosine between dense and pruned h, for reading; one_minus_cos_h keeps its digits [cosine] = 1 −
--     one_minus_cos_h
--   cos_z: Cosine between dense and pruned z, for reading; one_minus_cos_z keeps its digits [cosine] = 1 −
--     one_minus_cos_z
--   cos_p: Cosine between dense and pruned p, for reading; one_minus_cos_p keeps its digits [cosine] = 1 −
--     one_minus_cos_p
select
    model,
    recipe,
    model || '@' || recipe as variant,
    prompt_id,
    position,
    step,
    layer,
    sublayer,
    scope,
    lens,
    temperature,
    is_changed,
    norm_h,
    norm_dh,
    one_minus_cos_h,
    par_rel_h,
    orth_rel_h,
    t1_h,
    norm_z,
    norm_dz,
    one_minus_cos_z,
    par_rel_z,
    orth_rel_z,
    t1_z,
    norm_p,
    norm_dp,
    one_minus_cos_p,
    par_rel_p,
    orth_rel_p,
    var_uniform_dz,
    var_r_dz,
    t2_p,
    var_p_dz,
    t3_kl_nats,
    var_rq_dz,
    var_q_dz,
    kappa3_term_nats,
    kappa4_term_nats,
    kl_dense_pruned_nats,
    kl_pruned_dense_nats,
    js_nats,
    total_variation,
    identity_residual_nats,
    is_top1_same,
    topk5_overlap,
    topk10_overlap,
    rank_of_dense_top1,
    rank_of_pruned_top1,
    p_dense_top1_dense,
    p_dense_top1_pruned,
    p_pruned_top1_dense,
    p_pruned_top1_pruned,
    entropy_dense_nats,
    entropy_pruned_nats,
    margin_dense,
    margin_pruned,
    1 - one_minus_cos_h as cos_h,
    1 - one_minus_cos_z as cos_z,
    1 - one_minus_cos_p as cos_p
from layer_transitions
