-- The pruned variants that remove about as many parameters, ranked by the tokens that they change, with the nearest
-- ones marked.
-- grain: one row per pruned variant of a model with teacher-forced tokens.
-- key: model, recipe
-- inputs: variant_summary, variant_damage, damage_influences
-- how to read: variants are compared within bands: those whose share of parameters removed rounds to the same even
--   percentage point, so no band is wider than two points. Variants that remove nothing, such as those that are only
--   quantized, are a band of their own. Nothing is ranked across bands, because a variant that removes less is nearer
--   for that reason alone. The measure is the top1_change of variant_damage. The difference is to the variant of the
--   band that changes the fewest tokens, paired by prompt. The nearest variants are those whose difference is within
--   the interval: one-sided Student's t over prompts, at 5 % in all comparisons of the band together (Bonferroni). So
--   the truly nearest is among them in 95 of 100 studies. Fewer than 5 prompts tell nothing apart. Equal amounts are
--   never ordered by name: all of them are nearest.
-- reason: a report names the nearest variant only among variants of its size, and only if the measurements tell it
--   apart.
-- columns:
--   band: Number of the band, from 1, the one that removes least [rank]
--   band_removed_share: Mean share of the parameters that the band's variants remove [share]
--   amount: Share of teacher-forced tokens whose most likely token changes [share]
--   amount_low: Lower end of its 95 % interval [share]
--   place: Rank in the band from 1; ties share the smallest rank [rank]
--   difference: Amount minus the smallest of the band [share]
--   difference_low: Lower end of its simultaneous 95 % interval; NULL if it is not known [share]
--   is_nearest: Whether the difference may be 0; NULL if that is not known
--   n_variants: Pruned variants of the band that are compared [variants]
with banded as (
    select
        totals.model, totals.recipe, totals.parameters_removed_share, damages.amount, damages.amount_low,
        damages.amount_high,
        dense_rank() over (
            partition by totals.model
            order by round(50 * totals.parameters_removed_share), totals.parameters_removed_share > 0
        ) as band
    from variant_summary as totals
    inner join variant_damage as damages using (model, recipe)
    where totals.recipe <> 'dense' and damages.measure = 'top1_change'
),

ranked as (
    select
        *,
        avg(parameters_removed_share) over of_band as band_removed_share,
        count(*) over of_band as n_variants,
        rank() over (partition by model, band order by amount) as place,
        amount - min(amount) over of_band as difference,
        first_value(recipe) over (partition by model, band order by amount, recipe) as best
    from banded
    window of_band as (partition by model, band)
),

errors as (
    select
        ranked.model, ranked.recipe,
        count(*) as units,
        error_over_clusters(own.influence - best.influence) as error
    from ranked
    inner join damage_influences as own using (model, recipe)
    inner join damage_influences as best using (model, measure, unit)
    where own.measure = 'top1_change' and ranked.best = best.recipe and ranked.recipe <> ranked.best
    group by all
),

compared as (
    select
        ranked.*,
        -- Fewer than 5 units say too little about the spread, and quantile_against_best is not accurate there.
        if(errors.units >= 5, errors.error, null)
        * quantile_against_best(ranked.n_variants - 1, errors.units - 1) as half_width
    from ranked
    left join errors using (model, recipe)
)

select
    model, recipe, band, band_removed_share, amount, amount_low, amount_high, place, difference,
    difference - half_width as difference_low,
    case
        when count(half_width) over of_band = n_variants - 1 then recipe = best or difference <= half_width
    end as is_nearest,
    n_variants
from compared
window of_band as (partition by model, band)
order by model, band, place, recipe
