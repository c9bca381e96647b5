-- The fitted curve from probe to loss, for every choice of up to two models to leave out of the fit.
-- grain: one row per measure × kind of task × probe × model or pair of models left out × bin of the probe.
-- key: measure, kind, probe, out_a, out_b, bin
-- across: models
-- inputs: losses_by_probe
-- how to read: isotonic regression: the monotone curve with the least squared error. predicted_loss is its value at a
--   bin with data. A curve without any model left has no rows.
-- reason: loss_predictions predicts each model from the others, and tests this on every other model with both left out.
-- columns:
--   out_a: First of the two models left out; empty if at most one is
--   out_b: Second of the two models left out; empty if none is
--   predicted_loss: Value of the curve [share]
with known_losses as (
    select *
    from losses_by_probe
    where is_known
),

models as (
    select distinct measure, kind, probe, model
    from known_losses
),

-- The models that a curve leaves out: none, one, or two in alphabetical order. '' stands for no model.
left_out_names as (
    select
        measure, kind, probe,
        unnest(list_append(list(model), '')) as left_out
    from models
    group by measure, kind, probe
),

curves as (
    select
        -- Joins on one number take a fraction of the time of joins on five names.
        row_number() over (
            order by first_out.measure, first_out.kind, first_out.probe, first_out.left_out, second_out.left_out
        ) as curve,
        first_out.measure, first_out.kind, first_out.probe,
        first_out.left_out as out_a,
        second_out.left_out as out_b
    from left_out_names as first_out
    inner join left_out_names as second_out using (measure, kind, probe)
    where first_out.left_out < second_out.left_out or (first_out.left_out = '' and second_out.left_out = '')
),

sums as (
    select
        measure, kind, probe, model, bin,
        count(*) as n,
        sum(loss) as loss
    from known_losses
    group by all
),

points as (
    select
        curves.curve, sums.bin,
        sum(sums.n) as n,
        sum(sums.loss) as loss
    from curves
    inner join sums using (measure, kind, probe)
    where sums.model not in (curves.out_a, curves.out_b)
    group by all
),

cumulative as (
    select
        *,
        sum(n) over up_to_here as n_to,
        sum(loss) over up_to_here as loss_to
    from points
    window up_to_here as (partition by curve order by bin rows unbounded preceding)
),

-- Isotonic regression by the max-min formula: the mean loss from each beginning to each end, its minimum over the ends
-- from a bin on, then the maximum over the beginnings up to that bin.
means as (
    select
        beginnings.curve,
        beginnings.bin as from_place,
        ends.bin as to_place,
        (ends.loss_to - beginnings.loss_to + beginnings.loss)
        / (ends.n_to - beginnings.n_to + beginnings.n) as mean_loss
    from cumulative as beginnings
    inner join cumulative as ends using (curve)
    where beginnings.bin <= ends.bin
),

smallest as (
    select
        curve,
        to_place as bin,
        min(mean_loss) over (
            partition by curve, from_place
            order by to_place desc rows unbounded preceding
        ) as mean_loss
    from means
),

fitted as (
    select
        curve, bin,
        max(mean_loss) as predicted_loss
    from smallest
    group by all
)

select curves.measure, curves.kind, curves.probe, curves.out_a, curves.out_b, fitted.bin, fitted.predicted_loss
from fitted
inner join curves using (curve)
