-- A text's tokens and their dense side are the same in all variants of a model, and all windows score the same number.
-- grain: one row per contradiction.
-- inputs: stg_text_tokens
-- reason: all variants are compared with one dense pass over one sequence of tokens; kld_summary averages windows.
with reference as (
    select model, text_id, position, window_id, token_id, log_p_target_dense, entropy_dense_nats
    from stg_text_tokens
    where recipe = 'dense'
),

other_tokens as (
    select
        variants.model, variants.recipe, variants.text_id,
        variants.position as place,
        'another dense side' as contradiction
    from stg_text_tokens as variants
    inner join reference using (model, text_id, position)
    where
        variants.token_id <> reference.token_id
        or variants.window_id <> reference.window_id
        -- Equal up to the rounding of another machine.
        or abs(variants.log_p_target_dense - reference.log_p_target_dense) > 1e-3
        or abs(variants.entropy_dense_nats - reference.entropy_dense_nats) > 1e-3
),

sizes as (
    select
        model, recipe, text_id, window_id,
        count(*) as tokens
    from stg_text_tokens
    group by all
),

uneven as (
    select
        model, recipe, text_id,
        null as place,
        'windows of different sizes' as contradiction
    from sizes
    group by all
    having min(tokens) <> max(tokens)
),

dense_scores as (
    select
        model, text_id,
        count(*) as tokens
    from reference
    group by all
),

incomplete as (
    select
        variants.model, variants.recipe, variants.text_id,
        null as place,
        'other tokens than the dense model' as contradiction
    from stg_text_tokens as variants
    inner join dense_scores using (model, text_id)
    group by variants.model, variants.recipe, variants.text_id, dense_scores.tokens
    having count(*) <> dense_scores.tokens
)

select * from other_tokens
union all
select * from uneven
union all
select * from incomplete
