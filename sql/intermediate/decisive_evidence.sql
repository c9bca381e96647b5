-- The evidence that decides about each pruned variant's writing and choosing, one of those in verdict_evidence.
-- grain: one row per pruned variant × kind with evidence.
-- key: model, recipe, kind
-- inputs: verdict_evidence
-- how to read: right answers are preferred to the dense model's own ones, and tasks to tokens and options. The first of
--   these that rests on verdict_min_units and whose interval decides about the tolerance of 0.1 is taken; else the
--   first that rests on enough units; else the first. units_needed is the number of units at which the interval would
--   no longer contain the threshold that it contains, if loss and spread stay as they are.
-- reason: single place that chooses between kinds of evidence, for variant_verdict and the report.
-- columns:
--   is_enough: Whether it rests on at least verdict_min_units units and has an interval
--   units_needed: Number of such units that would decide; NULL where it is decided, or no number would [units]
with

rated as (
    select
        *,
        coalesce(n_units >= verdict_min_units() and loss_low is not null, false) as is_enough
    from verdict_evidence
    where evidence <> 'prediction'
),

chosen as (
    select *
    from rated
    qualify row_number() over (
        partition by model, recipe, kind
        order by
            not (is_enough and is_loss_decided(kind, loss_low, loss_high, 0.1)),
            not is_enough,
            list_position(['score', 'agreement', 'tokens', 'options'], evidence)
    ) = 1
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
    is_enough,
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
