-- Variants that fall into a loop where the dense model does not: their number, the mildest, the earliest loop.
-- grain: one row per model.
-- inputs: variant_verdict, stg_generations, looping_texts
with

-- Only a variant with a text can loop.
generating as (
    select
        variant_verdict.model,
        variant_verdict.recipe,
        variant_verdict.kl_step0_nats
    from variant_verdict
    semi join stg_generations
        on variant_verdict.model = stg_generations.model and variant_verdict.recipe = stg_generations.recipe
),

ranked as (
    select
        variants.model,
        variants.recipe,
        looping_texts.prompt_id,
        looping_texts.first_flip_step,
        looping_texts.collapse_step,
        variants.kl_step0_nats,
        row_number() over (
            partition by variants.model
            order by
                looping_texts.collapse_step is null,
                variants.kl_step0_nats,
                looping_texts.collapse_step,
                variants.recipe,
                looping_texts.prompt_id
        ) as by_kl,
        row_number() over (
            partition by variants.model
            order by looping_texts.collapse_step, variants.kl_step0_nats, variants.recipe, looping_texts.prompt_id
        ) as by_step
    from generating as variants
    left join looping_texts
        on variants.model = looping_texts.model and variants.recipe = looping_texts.recipe
)

select
    model,
    count(distinct recipe) as variants,
    count(distinct recipe) filter (where collapse_step is not null) as variants_collapsed,
    max(recipe) filter (where by_kl = 1) as mildest_recipe,
    max(prompt_id) filter (where by_kl = 1) as mildest_prompt_id,
    max(kl_step0_nats) filter (where by_kl = 1) as mildest_kl_step0_nats,
    max(first_flip_step) filter (where by_kl = 1) as mildest_first_flip_step,
    max(collapse_step) filter (where by_kl = 1) as mildest_collapse_step,
    max(recipe) filter (where by_step = 1) as earliest_recipe,
    max(prompt_id) filter (where by_step = 1) as earliest_prompt_id,
    max(first_flip_step) filter (where by_step = 1) as earliest_first_flip_step,
    max(collapse_step) filter (where by_step = 1) as earliest_collapse_step
from ranked
group by model
order by model
