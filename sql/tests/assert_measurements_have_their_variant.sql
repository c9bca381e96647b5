-- Everything measured belongs to a variant that is described.
-- grain: one row per table × model × recipe without a row in variants.
-- inputs: stg_variants, stg_layer_transitions, stg_decoding_steps, stg_top_tokens, stg_option_subspace,
--   stg_generations, stg_text_tokens
-- reason: figures of a recipe that nobody can look up are no figures.
with

measured as (
    select
        'layer_transitions' as table_name,
        model,
        recipe
    from stg_layer_transitions
    union
    select
        'decoding_steps' as table_name,
        model,
        recipe
    from stg_decoding_steps
    union
    select
        'top_tokens' as table_name,
        model,
        recipe
    from stg_top_tokens
    union
    select
        'option_subspace' as table_name,
        model,
        recipe
    from stg_option_subspace
    union
    select
        'generations' as table_name,
        model,
        recipe
    from stg_generations
    union
    select
        'text_tokens' as table_name,
        model,
        recipe
    from stg_text_tokens
)

select
    measured.table_name,
    measured.model,
    measured.recipe
from measured
left join stg_variants as variants
    on measured.model = variants.model and measured.recipe = variants.recipe
where variants.model is null
