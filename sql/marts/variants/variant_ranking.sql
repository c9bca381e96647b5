-- The pruned variants of a model in order of damage, by the one measure that tells them apart best, and the nearest.
-- grain: one row per pruned variant of a model with a measure that all its pruned variants have with an interval.
-- key: model, recipe
-- inputs: variant_damage, damage_influences
-- how to read: the measure is the one of variant_damage with the narrowest intervals relative to the range of its
--   amounts over the variants. The difference is to the variant with the least damage, paired by prompt or question.
--   The nearest variants are those whose difference is within the interval: one-sided Student's t over prompts, at 5 %
--   in all comparisons with the best together (Bonferroni), so that the truly nearest is among them in 95 of 100
--   studies; fewer than 5 units tell nothing apart. Equal amounts are never ordered by name: all of them are nearest.
-- reason: a report names the nearest variant only where the measurements tell it apart.
-- columns:
--   measure: The measure of variant_damage that is compared [label]
--   amount: The measure; more is worse [share or nats]
--   amount_low: Lower end of its 95 % interval [share or nats]
--   amount_high: Upper end of it [share or nats]
--   place: Rank from 1, equal amounts sharing the least [rank]
--   difference: Amount minus that of the variant with the least damage [share or nats]
--   difference_low: Lower end of its simultaneous 95 % interval; NULL where it is not known [share or nats]
--   is_nearest: Whether the difference may be 0; NULL where that is not known
--   n_variants: Pruned variants that are compared [variants]
with

measured as (
    select
        model,
        recipe,
        measure,
        amount,
        amount_low,
        amount_high
    from variant_damage
    where is_comparable and recipe <> 'dense' and amount_low is not null and amount_high is not null
),

counts as (
    select
        model,
        count(distinct recipe) as n_variants
    from variant_damage
    where recipe <> 'dense'
    group by model
),

measures as (
    select
        measured.model,
        measured.measure,
        any_value(counts.n_variants) as n_variants
    from measured
    inner join counts
        on measured.model = counts.model
    group by measured.model, measured.measure
    having count(*) = any_value(counts.n_variants)
    qualify row_number() over (
        partition by measured.model
        order by
            avg(measured.amount_high - measured.amount_low)
            / nullif(max(measured.amount) - min(measured.amount), 0) nulls last,
            measured.measure
    ) = 1
),

ranked as (
    select
        measured.*,
        measures.n_variants,
        rank() over (partition by measured.model order by measured.amount) as place,
        first_value(measured.recipe) over (
            partition by measured.model order by measured.amount, measured.recipe
        ) as best
    from measured
    inner join measures
        on measured.model = measures.model and measured.measure = measures.measure
),

influences as (
    select
        ranked.model,
        ranked.recipe,
        damage_influences.unit,
        damage_influences.influence
    from ranked
    inner join damage_influences
        on
            ranked.model = damage_influences.model
            and ranked.recipe = damage_influences.recipe
            and ranked.measure = damage_influences.measure
),

errors as (
    select
        ranked.model,
        ranked.recipe,
        count(own.influence - best.influence) as units,
        error_over_clusters(own.influence - best.influence) as error
    from ranked
    inner join influences as own
        on ranked.model = own.model and ranked.recipe = own.recipe
    inner join influences as best
        on ranked.model = best.model and ranked.best = best.recipe and own.unit = best.unit
    where ranked.recipe <> ranked.best
    group by ranked.model, ranked.recipe
),

compared as (
    select
        ranked.*,
        ranked.amount - min(ranked.amount) over (partition by ranked.model) as difference,
        -- Fewer than 5 units say too little of the spread, and the series of quantile_against_best is too short there.
        if(errors.units >= 5, errors.error, null)
        * quantile_against_best(ranked.n_variants - 1, errors.units - 1) as half_width
    from ranked
    left join errors
        on ranked.model = errors.model and ranked.recipe = errors.recipe
)

select
    model,
    recipe,
    measure,
    amount,
    amount_low,
    amount_high,
    place,
    difference,
    difference - half_width as difference_low,
    case
        when count(half_width) over of_model = n_variants - 1 then recipe = best or difference <= half_width
    end as is_nearest,
    n_variants
from compared
window of_model as (partition by model)
order by model, place, recipe
