-- The evidence that decides about each pruned variant's writing and choosing, one of those in verdict_evidence.
-- grain: one row per pruned variant × kind with evidence.
-- key: model, recipe, kind
-- inputs: verdict_evidence
-- how to read: decisive_evidence_of chooses, with a tolerance of 0.1. units_needed is the number of units at which the
--   interval would no longer contain the threshold that it contains, if loss and spread stay as they are. Predictions
--   are left to `prunescope advise`.
-- reason: variant_verdict needs one loss of each kind, and the number of units that would decide.
-- columns:
--   low: Lower end of the interval, where it rests on at least verdict_min_units units [share]
--   high: Upper end of it, likewise [share]
--   units_needed: Number of such units that would decide; NULL where it is decided, or no number would [units]
with

decided as (
    select
        model,
        recipe,
        kind,
        decisive_evidence_of(kind, evidence, loss, loss_low, loss_high, n_units, unit, 0.1) as chosen
    from verdict_evidence
    where evidence <> 'prediction'
    group by model, recipe, kind
),

chosen as (
    select
        decided.model,
        decided.recipe,
        decided.kind,
        decided.chosen.evidence,
        decided.chosen.loss,
        decided.chosen.loss_low,
        decided.chosen.loss_high,
        decided.chosen.n_units,
        decided.chosen.unit,
        decided.chosen.low,
        decided.chosen.high
    from decided
)

select
    model,
    recipe,
    kind,
    evidence,
    loss,
    loss_low,
    loss_high,
    n_units,
    unit,
    low,
    high,
    -- A loss at the tolerance is decided by no number; else greatest skips what is not asked or is decided.
    case
        when loss <> 0.1 and (loss_low is not null or n_units < verdict_min_units())
            then greatest(
                if(n_units < verdict_min_units(), verdict_min_units(), null),
                units_to_decide(loss, loss_low, loss_high, 0.1, n_units),
                if(kind = 'choosing', units_to_decide(loss, loss_low, loss_high, 0.5, n_units), null)
            )
    end as units_needed
from chosen
