-- The task loss of each variant, as predicted from its probes and the other models of the warehouse.
-- grain: one row per pruned variant × measure × kind of task × probe.
-- key: model, recipe, measure, kind, probe
-- across: models
-- inputs: losses_by_probe, loss_curves, damage_probes
-- how to read: scored and unscored variants are predicted alike, from all scored variants of the other models that have
--   at least 5 of them. The prediction is the monotone curve with the least squared error from probe to loss (isotonic
--   regression, probes in steps of a tenth of a decade from 1e-4 up). predicted_loss is the curve's value at the next
--   larger probe value with data, which is rather too high; it is NULL beyond the largest one. For the interval, every
--   other model is predicted without itself and without this one. The error of such a model is the one that 9 of 10 of
--   its variants stay within, and half_width is the largest of these errors. The interval covers 9 of 10 variants of a
--   model that is no more unusual than the known ones; it is NULL below two of them. q31_prediction_quality says how
--   often it did.
-- reason: probes take minutes and tasks days; the error of a prediction is measured on models that were left out of its
--   fit. The view is long because the same curves predict the model itself and every other one.
-- columns:
--   probe: Name of the probe that it is predicted from [label]
--   n_models: Other models that it is predicted from [models]
--   n_variants: Their scored variants [variants]
--   predicted_loss: Predicted loss; NULL beyond the largest probe value with data [share]
--   half_width: Largest over the other models of the error that 9 of 10 of their variants stay within [share]
--   predicted_loss_low: Lower end of the interval [share] = predicted_loss − half_width
--   predicted_loss_high: Upper end of the interval, at most 1 [share]
--   loss: Measured loss; NULL if not measured [share]
with

-- Each view that is read several times is a CTE, which is computed once.
scored as (
    select * from losses_by_probe
),

probes as (
    select * from damage_probes
),

known_losses as (
    select *
    from scored
    where is_known
),

curves as (
    select * from loss_curves
),

known_models as (
    select
        measure, kind, probe, model,
        count(*) as n_variants
    from known_losses
    group by all
),

totals as (
    select
        measure, kind, probe,
        count(*) as n_models,
        sum(n_variants) as n_variants
    from known_models
    group by all
),

probed_models as (
    select distinct model, probe
    from probes
),

-- The models to predict, and the name under which the curves leave each out.
requests as (
    select
        models.model, totals.measure, totals.kind, totals.probe,
        coalesce(known_models.model, '') as left_out,
        totals.n_models - cast(known_models.model is not null as integer) as n_models,
        cast(totals.n_variants - coalesce(known_models.n_variants, 0) as bigint) as n_variants
    from probed_models as models
    inner join totals using (probe)
    left join known_models using (model, measure, kind, probe)
),

-- Every other model, to be predicted without itself and without the predicted model.
held_out as (
    select
        requests.model,
        known_losses.model as other,
        known_losses.measure, known_losses.kind, known_losses.probe, known_losses.bin, known_losses.loss,
        least(requests.left_out, known_losses.model) as out_a,
        greatest(requests.left_out, known_losses.model) as out_b
    from requests
    inner join known_losses using (measure, kind, probe)
    where requests.model <> known_losses.model
),

errors as (
    select
        held_out.model, held_out.other, held_out.measure, held_out.kind, held_out.probe,
        quantile_disc(abs(held_out.loss - curves.predicted_loss), 0.9) as error
    from held_out
    asof inner join curves
        on
            held_out.measure = curves.measure and held_out.kind = curves.kind and held_out.probe = curves.probe
            and held_out.out_a = curves.out_a and held_out.out_b = curves.out_b and held_out.bin <= curves.bin
    group by all
),

widths as (
    select
        model, measure, kind, probe,
        case when count(*) >= 2 then max(error) end as half_width
    from errors
    group by all
),

targets as (
    select
        probes.model, probes.recipe, probes.damage,
        probe_bin(probes.damage) as bin,
        requests.measure, requests.kind, requests.probe, requests.n_models, requests.n_variants,
        '' as out_a,
        requests.left_out as out_b
    from probes
    inner join requests using (model, probe)
),

predicted as (
    select
        targets.*,
        curves.predicted_loss
    from targets
    asof left join curves
        on
            targets.measure = curves.measure and targets.kind = curves.kind and targets.probe = curves.probe
            and targets.out_a = curves.out_a and targets.out_b = curves.out_b and targets.bin <= curves.bin
)

select
    predicted.model, predicted.recipe, predicted.measure, predicted.kind, predicted.probe, predicted.damage,
    predicted.n_models, predicted.n_variants, predicted.predicted_loss, widths.half_width,
    predicted.predicted_loss - widths.half_width as predicted_loss_low,
    case
        when predicted.predicted_loss + widths.half_width > 1 then 1
        else predicted.predicted_loss + widths.half_width
    end as predicted_loss_high,
    scored.loss
from predicted
left join widths using (model, measure, kind, probe)
left join scored using (model, recipe, measure, kind, probe)
