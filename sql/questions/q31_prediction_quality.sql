-- How well do probes predict the losses of a model that was left out of the fit?
-- grain: one row per model × measure × kind of task × probe.
-- key: model, measure, kind, probe
-- across: models
-- inputs: loss_predictions
-- how to read: every scored variant of the model is predicted from the other models alone (loss_predictions). spearman
--   is the rank correlation of predictions and measured losses within the model. coverage is the share of variants
--   inside the stated interval, which is made to hold for 0.9 of the variants of a model like the others. Its own
--   interval is Wilson's and takes variants as independent, although those of one model are not. All are NULL if no
--   other model has 5 scored variants, coverage if fewer than two have, spearman below 5 predicted variants. Variants
--   whose probe is beyond those of all other models are not predicted; n_beyond counts them. probe_spearman needs no
--   other model: it ranks the model's own variants by the probe alone; 1 is the order of the measured losses, 0 none.
--   Its interval is Bonett and Wright's (2000), with variants as independent: tanh(atanh(r) ± 1.96 · sqrt((1 + r²/2) /
--   (n − 3))). Few variants may agree completely by chance, so its centre r is at most the correlation if two
--   neighbours change places.
-- reason: advice is worth as much as its predictions on new models.
-- columns:
--   probe: Name of the probe that the loss is predicted from [label]
--   n_variants: Scored variants that are predicted [variants]
--   n_beyond: Scored variants beyond the largest probe of other models [variants]
--   spearman: Rank correlation of predicted and measured loss [-1 to 1]
--   error_mean: Mean of |measured − predicted loss| [share]
--   coverage: Variants inside the stated interval [share]
--   coverage_low: Lower end of its 95 % interval [share]
--   half_width: Half the width of the stated interval [share]
--   n_scored: Scored variants with the probe, predicted or not [variants]
--   probe_spearman: Rank correlation of the probe and the measured loss; NULL below 5 variants [-1 to 1]
--   probe_spearman_low: Lower end of its 95 % interval [-1 to 1]
with ranked as (
    select
        *,
        case
            when predicted_loss is not null
                then count_below(predicted_loss, row(model, measure, kind, probe, predicted_loss is null))
        end as predicted_below,
        case
            when predicted_loss is not null
                then count_below(loss, row(model, measure, kind, probe, predicted_loss is null))
        end as loss_below,
        count_below(damage, row(model, measure, kind, probe)) as damage_below,
        count_below(loss, row(model, measure, kind, probe)) as scored_below
    from loss_predictions
    where loss is not null
),

counted as (
    select
        model, measure, kind, probe,
        any_value(n_models) as n_models,
        count(predicted_loss) as n_variants,
        count(*) filter (where predicted_loss is null and n_models > 0) as n_beyond,
        spearman_of_counts(predicted_below, loss_below) as spearman,
        avg(abs(loss - predicted_loss)) as error_mean,
        -- A bound can equal the loss: rounding must not put the loss outside the interval.
        count(*) filter (where abs(loss - predicted_loss) <= half_width + 1e-9) as inside,
        count(predicted_loss + half_width) as n_intervals,
        any_value(half_width) as half_width,
        count(*) as n_scored,
        spearman_of_counts(damage_below, scored_below) as probe_spearman
    from ranked
    group by all
),

bounded as (
    select
        *,
        sign(probe_spearman) * least(abs(probe_spearman), 1 - 12 / (n_scored ** 3 - n_scored)) as inner_spearman
    from counted
),

intervals as (
    select
        *,
        interval_of_correlation(inner_spearman, half_width_of_rank_correlation(inner_spearman, n_scored)) as ends
    from bounded
)

select
    model, measure, kind, probe, n_models, n_variants, n_beyond, spearman, error_mean,
    inside / nullif(n_intervals, 0) as coverage,
    wilson_interval(inside, n_intervals)[1] as coverage_low,
    wilson_interval(inside, n_intervals)[2] as coverage_high,
    half_width, n_scored, probe_spearman,
    least(probe_spearman, ends[1]) as probe_spearman_low,
    greatest(probe_spearman, ends[2]) as probe_spearman_high
from intervals
order by model, measure, kind, probe
