-- The variants that the claims are about, and the noise variant that is their null.
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: variant_summary, stg_variants, noise_at_output, noise_variants
-- how to read: a pruned variant is left out if its output moves no further than rounding moves it (is_below_noise of
--   variant_summary), because a claim about a shift needs a shift. If no variant remains, all stay and have
--   is_rounding, and no claim holds. Without noise all stay. Repaired variants are left out: the claims are about
--   pruning, and the same variant without its repair would count twice. The null is the noise variant with the largest
--   95th percentile of KL.
-- reason: a model that differs only in rounding must not confirm a claim about pruning.
-- columns:
--   is_noise: Whether it is the null
--   is_rounding: Whether no pruned variant of the model moves further than rounding moves it
with pruned as (
    select
        measured.model, measured.recipe,
        coalesce(measured.is_below_noise, false) as is_below
    from variant_summary as measured
    inner join stg_variants as variants using (model, recipe)
    where measured.recipe <> 'dense' and not variants.is_repaired
),

nulls as (
    select
        noise_variants.model,
        arg_max(noise_variants.recipe, row(coalesce(at_output.kl_p95_nats, 0), noise_variants.recipe)) as recipe
    from noise_variants
    left join noise_at_output as at_output using (model, recipe)
    group by all
)

select
    model, recipe,
    false as is_noise,
    is_below as is_rounding
from pruned
qualify not is_below or bool_and(is_below) over (partition by model)

union all

select
    model, recipe,
    true as is_noise,
    false as is_rounding
from nulls
