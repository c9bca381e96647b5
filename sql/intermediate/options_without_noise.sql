-- The rows of option_subspace without those of noise variants.
-- grain: one row per variant × question × temperature, noise left out.
-- key: model, recipe, prompt_id, temperature
-- inputs: stg_option_subspace, noise_variants
-- how to read: the columns of stg_option_subspace that other views read. The dense recipe is included.
-- reason: single place that excludes noise from the multiple-choice questions.
select
    options.model,
    options.recipe,
    options.prompt_id,
    options.temperature,
    options.options,
    options.gold,
    options.is_argmax_same,
    options.logits_dense,
    options.logits_pruned,
    options.p_full_dense,
    options.p_full_pruned,
    options.p_options_dense,
    options.p_options_pruned,
    options.rank_dense,
    options.rank_pruned,
    options.mass_dense,
    options.mass_pruned,
    options.one_minus_cos_z_options,
    options.one_minus_cos_p_options,
    options.kl_options_dense_pruned_nats,
    options.one_minus_cos_h,
    options.one_minus_cos_z,
    options.one_minus_cos_p,
    options.kl_dense_pruned_nats
from stg_option_subspace as options
anti join noise_variants using (model, recipe)
