-- What a variant loses in tasks as its probes predict it from the other models of the warehouse, never from its own.
-- grain: one row per pruned variant × measure × kind of task × probe.
-- key: model, recipe, measure, kind, probe
-- across: models
-- inputs: damage_probes, task_losses
-- how to read: a variant that was scored and one that was not are predicted alike: from all scored variants of the
--   other models that have at least 5, by the monotone curve of least squares from probe to loss (isotonic regression,
--   probes in steps of a tenth of a decade from 1e-4 up). The loss that is predicted is the curve's at the next probe
--   value that was seen, which is rather too much; NULL beyond the largest one seen, for there nothing is known. Every
--   other model in turn is predicted without itself and without this one; 9 of 10 of its variants lie nearer to their
--   prediction than its error, and the interval is as wide as the largest error. It holds for 9 of 10 variants of a
--   model that is no stranger than the strangest of those that are known; NULL below two of them.
--   q31_prediction_quality says how often it held.
-- reason: probes take minutes where tasks take days; a prediction is worth what it got wrong on models it had not seen.
-- columns:
--   measure: score, by right answers, or agreement, by the dense model's own ones
--   probe: What it is predicted from [label]
--   n_models: Other models that it is predicted from [models]
--   n_variants: Their scored variants [variants]
--   predicted_loss: Predicted loss; NULL beyond the largest probe that was seen [share]
--   half_width: Largest over the other models of the error that 9 of 10 of their variants stay within [share]
--   predicted_loss_low: Lower end of the interval [share] = predicted_loss − half_width
--   predicted_loss_high: Upper end of the interval, at most 1 [share]
--   loss: The loss as it was measured; NULL where it was not [share]
with

placed as (
    select
        *,
        -- A damage below a tenth of a thousandth is none.
        cast(round(10 * log10(greatest(damage, 1e-4))) as integer) as place
    from damage_probes
),

scored as (
    select
        placed.model,
        placed.recipe,
        losses.measure,
        losses.kind,
        placed.probe,
        placed.place,
        losses.loss
    from placed
    inner join task_losses as losses
        on placed.model = losses.model and placed.recipe = losses.recipe
),

known_models as (
    select
        measure,
        kind,
        probe,
        model,
        count(*) as n_variants
    from scored
    group by measure, kind, probe, model
    having count(*) >= 5
),

-- What a curve may not have seen: nothing, one model or two, the first before the second. '' is no model.
left_out_names as (
    select
        measure,
        kind,
        probe,
        unnest(list_append(list(model), '')) as left_out
    from known_models
    group by measure, kind, probe
),

curves as (
    select
        -- Joins on one number take a fraction of the time of those on five names.
        row_number() over (
            order by first_out.measure, first_out.kind, first_out.probe, first_out.left_out, second_out.left_out
        ) as curve,
        first_out.measure,
        first_out.kind,
        first_out.probe,
        first_out.left_out as out_a,
        second_out.left_out as out_b
    from left_out_names as first_out
    inner join left_out_names as second_out
        on
            first_out.measure = second_out.measure
            and first_out.kind = second_out.kind
            and first_out.probe = second_out.probe
            and (first_out.left_out < second_out.left_out or (first_out.left_out = '' and second_out.left_out = ''))
),

lessons as (
    select scored.*
    from scored
    semi join known_models
        on
            scored.measure = known_models.measure
            and scored.kind = known_models.kind
            and scored.probe = known_models.probe
            and scored.model = known_models.model
),

sums as (
    select
        measure,
        kind,
        probe,
        model,
        place,
        count(*) as n,
        sum(loss) as loss
    from lessons
    group by measure, kind, probe, model, place
),

points as (
    select
        curves.curve,
        sums.place,
        sum(sums.n) as n,
        sum(sums.loss) as loss
    from curves
    inner join sums
        on
            curves.measure = sums.measure
            and curves.kind = sums.kind
            and curves.probe = sums.probe
            and curves.out_a <> sums.model
            and curves.out_b <> sums.model
    group by curves.curve, sums.place
),

heaped as (
    select
        *,
        sum(n) over up_to_here as n_to,
        sum(loss) over up_to_here as loss_to
    from points
    window up_to_here as (partition by curve order by place rows unbounded preceding)
),

-- Isotonic regression: at a place, the largest over the beginnings before it of the smallest over the ends behind it of
-- the mean from beginning to end.
means as (
    select
        beginnings.curve,
        beginnings.place as from_place,
        ends.place as to_place,
        (ends.loss_to - beginnings.loss_to + beginnings.loss)
        / (ends.n_to - beginnings.n_to + beginnings.n) as mean_loss
    from heaped as beginnings
    inner join heaped as ends
        on beginnings.curve = ends.curve and beginnings.place <= ends.place
),

smallest as (
    select
        curve,
        to_place as place,
        min(mean_loss) over (
            partition by curve, from_place
            order by to_place desc rows unbounded preceding
        ) as mean_loss
    from means
),

fitted as (
    select
        curve,
        place,
        max(mean_loss) as predicted_loss
    from smallest
    group by curve, place
),

totals as (
    select
        measure,
        kind,
        probe,
        count(*) as n_models,
        sum(n_variants) as n_variants
    from known_models
    group by measure, kind, probe
),

probed as (
    select distinct
        model,
        probe
    from damage_probes
),

-- Whose variants are predicted, and under which name the curves leave it out.
asked as (
    select
        models.model,
        totals.measure,
        totals.kind,
        totals.probe,
        coalesce(known_models.model, '') as left_out,
        totals.n_models - cast(known_models.model is not null as integer) as n_models,
        cast(totals.n_variants - coalesce(known_models.n_variants, 0) as bigint) as n_variants
    from probed as models
    inner join totals
        on models.probe = totals.probe
    left join known_models
        on
            models.model = known_models.model
            and totals.measure = known_models.measure
            and totals.kind = known_models.kind
            and totals.probe = known_models.probe
),

-- Every other model, predicted without itself and without the one that is asked for.
rehearsed as (
    select
        asked.model,
        lessons.model as other,
        lessons.measure,
        lessons.kind,
        lessons.probe,
        lessons.place,
        lessons.loss,
        curves.curve
    from asked
    inner join lessons
        on
            asked.measure = lessons.measure
            and asked.kind = lessons.kind
            and asked.probe = lessons.probe
            and asked.model <> lessons.model
    inner join curves
        on
            lessons.measure = curves.measure
            and lessons.kind = curves.kind
            and lessons.probe = curves.probe
            and least(asked.left_out, lessons.model) = curves.out_a
            and greatest(asked.left_out, lessons.model) = curves.out_b
),

errors as (
    select
        rehearsed.model,
        rehearsed.other,
        rehearsed.measure,
        rehearsed.kind,
        rehearsed.probe,
        quantile_disc(abs(rehearsed.loss - fitted.predicted_loss), 0.9) as error
    from rehearsed
    asof inner join fitted
        on rehearsed.curve = fitted.curve and rehearsed.place <= fitted.place
    group by rehearsed.model, rehearsed.other, rehearsed.measure, rehearsed.kind, rehearsed.probe
),

widths as (
    select
        model,
        measure,
        kind,
        probe,
        case when count(*) >= 2 then max(error) end as half_width
    from errors
    group by model, measure, kind, probe
),

targets as (
    select
        placed.model,
        placed.recipe,
        placed.damage,
        placed.place,
        asked.measure,
        asked.kind,
        asked.probe,
        asked.n_models,
        asked.n_variants,
        curves.curve
    from placed
    inner join asked
        on placed.model = asked.model and placed.probe = asked.probe
    inner join curves
        on
            asked.measure = curves.measure
            and asked.kind = curves.kind
            and asked.probe = curves.probe
            and curves.out_a = ''
            and asked.left_out = curves.out_b
),

predicted as (
    select
        targets.*,
        fitted.predicted_loss
    from targets
    asof left join fitted
        on targets.curve = fitted.curve and targets.place <= fitted.place
)

select
    predicted.model,
    predicted.recipe,
    predicted.measure,
    predicted.kind,
    predicted.probe,
    predicted.damage,
    predicted.n_models,
    predicted.n_variants,
    predicted.predicted_loss,
    widths.half_width,
    predicted.predicted_loss - widths.half_width as predicted_loss_low,
    case
        when predicted.predicted_loss + widths.half_width > 1 then 1
        else predicted.predicted_loss + widths.half_width
    end as predicted_loss_high,
    task_losses.loss
from predicted
left join widths
    on
        predicted.model = widths.model
        and predicted.measure = widths.measure
        and predicted.kind = widths.kind
        and predicted.probe = widths.probe
left join task_losses
    on
        predicted.model = task_losses.model
        and predicted.recipe = task_losses.recipe
        and predicted.measure = task_losses.measure
        and predicted.kind = task_losses.kind
