-- The dense model compared with itself differs by exactly 0, and so does an untouched sublayer swapped on its own.
-- grain: one row per measured row that differs.
-- inputs: stg_layer_transitions, stg_decoding_steps, stg_option_subspace, stg_generations, stg_text_tokens, stg_models
-- how to read: a text is decoded token by token and read again in one pass. The two round differently, so the pass may
--   prefer the other token of a tie.
-- reason: every measure must give exactly 0 here for any model; a column that the rows' version lacked is NULL.
with steps as (
    select measured.*, models.dtype
    from stg_decoding_steps as measured
    left join stg_models as models using (model)
),

layers as (
    select
        'layer_transitions' as table_name,
        model, recipe, prompt_id,
        position as place
    from stg_layer_transitions
    where
        (recipe = 'dense' or (scope <> 'propagated' and not is_changed))
        and not (
            norm_dh = 0 and norm_dz = 0 and norm_dp = 0 and one_minus_cos_h = 0 and one_minus_cos_z = 0
            and one_minus_cos_p = 0 and var_uniform_dz = 0 and var_p_dz = 0 and var_r_dz = 0
            and coalesce(var_q_dz, 0) = 0
            and coalesce(var_rq_dz, 0) = 0
            and kl_dense_pruned_nats = 0 and kl_pruned_dense_nats = 0 and js_nats = 0 and total_variation = 0
            and is_top1_same
        )
),

outputs as (
    select
        'decoding_steps' as table_name,
        model, recipe, prompt_id,
        step as place
    from steps
    where
        recipe = 'dense'
        and not (
            norm_dh = 0 and norm_dz = 0 and norm_dp = 0 and one_minus_cos_h = 0 and one_minus_cos_z = 0
            and one_minus_cos_p = 0 and var_uniform_dz = 0 and var_p_dz = 0 and var_r_dz = 0
            and coalesce(var_q_dz, 0) = 0
            and coalesce(var_rq_dz, 0) = 0
            and kl_dense_pruned_nats = 0 and kl_pruned_dense_nats = 0 and js_nats = 0 and total_variation = 0
            and is_top1_same
            and (is_same_token or (trajectory = 'teacher_forced' and margin_dense <= tie_margin(dtype, recipe)))
        )
),

choices as (
    select
        'option_subspace' as table_name,
        model, recipe, prompt_id,
        0 as place
    from stg_option_subspace
    where
        recipe = 'dense'
        and not (
            kl_options_dense_pruned_nats = 0 and one_minus_cos_z_options = 0 and one_minus_cos_p_options = 0
            and one_minus_cos_h = 0 and one_minus_cos_z = 0 and kl_dense_pruned_nats = 0 and one_minus_cos_p = 0
            and is_argmax_same and logits_dense = logits_pruned
        )
),

texts as (
    select
        'generations' as table_name,
        model, recipe, prompt_id,
        first_flip_step as place
    from stg_generations
    where recipe = 'dense' and first_flip_step is not null
),

scored as (
    select
        'text_tokens' as table_name,
        model, recipe, text_id,
        position as place
    from stg_text_tokens
    where
        recipe = 'dense'
        and not (
            one_minus_cos_h = 0 and one_minus_cos_z = 0 and one_minus_cos_p = 0 and var_p_dz = 0
            and kl_dense_pruned_nats = 0 and kl_pruned_dense_nats = 0 and js_nats = 0 and total_variation = 0
            and is_top1_same and delta_log_p_target = 0
        )
)

select * from layers
union all
select * from outputs
union all
select * from choices
union all
select * from texts
union all
select * from scored
