-- The rule of verdicts: what may be said of a variant from the 95 % intervals of its losses in writing and in choosing.

-- Number of independent units (prompts, questions, answers) below which no verdict rests on them.
create or replace macro verdict_min_units() as 30;

-- A statement is made only where the whole interval supports it. A score that halves counts as gone (q21). An interval
-- that is not known is NULL and supports nothing.
create or replace macro verdict_of(writing_low, writing_high, choosing_low, choosing_high, tolerance) as case
    when choosing_low >= 0.5 and choosing_low > tolerance then 'broken'
    when writing_high <= tolerance and choosing_high <= tolerance then 'safe'
    when writing_low > tolerance and choosing_high < 0.5 then 'non-generative only'
    when writing_low > tolerance or choosing_low > tolerance then 'not safe'
    else 'too little evidence'
end;

-- Whether an interval answers what a verdict asks of its kind: is the loss tolerated, and of choosing: is half gone.
create or replace macro is_loss_decided(kind, low, high, tolerance) as coalesce(
    high <= tolerance
    or (low > tolerance and (kind = 'writing' or low >= 0.5 or high < 0.5)),
    false
);

-- Whether evidence can carry a verdict. The variants behind a prediction are of other models; loss_predictions refuses
-- too few of them.
create or replace macro is_evidence_enough(evidence, low, units) as coalesce(
    low is not null and (evidence = 'prediction' or units >= verdict_min_units()), false
);

-- The evidence that decides about a variant's writing or choosing, as a struct; an aggregate over its evidence of that
-- kind. Right answers are preferred to the dense model's own ones, tasks to predictions, and these to tokens and
-- options. The first of them that is enough and decides is taken; else the first that is enough; else the first. `low`
-- and `high` are the ends of the interval where it is enough, else NULL: those for verdict_of.
create or replace macro decisive_evidence_of(
    kind, evidence, loss, loss_low, loss_high, units, unit, tolerance
) as arg_min(
    struct_pack(
        evidence := evidence,
        loss := loss,
        loss_low := loss_low,
        loss_high := loss_high,
        n_units := units,
        unit := unit,
        low := if(is_evidence_enough(evidence, loss_low, units), loss_low, null),
        high := if(is_evidence_enough(evidence, loss_low, units), loss_high, null)
    ),
    row(
        not (is_evidence_enough(evidence, loss_low, units) and is_loss_decided(kind, loss_low, loss_high, tolerance)),
        not is_evidence_enough(evidence, loss_low, units),
        list_position(['score', 'agreement', 'prediction', 'tokens', 'options'], evidence)
    )
);

-- Number of units at which an interval around the same loss would not contain the threshold, because widths shrink with
-- the root of the number; NULL where it does not contain it now, or the loss is the threshold.
create or replace macro units_to_decide(loss, low, high, threshold, units) as case
    when low <= threshold and high > threshold and loss <> threshold
        then cast(
            least(1e12, ceil(units * power(if(loss < threshold, high - loss, loss - low) / (loss - threshold), 2)))
            as bigint
        )
end;

-- Upper quantile of Student's t at which each of `others` one-sided comparisons with the best errs in 5 % / others
-- (Bonferroni): the normal quantile (Abramowitz and Stegun 26.2.23) and the Cornish-Fisher series of t around it, which
-- is too small below 4 degrees of freedom.
create or replace macro normal_upper_quantile(tail) as (
    sqrt(-2 * ln(tail))
    - (2.515517 + 0.802853 * sqrt(-2 * ln(tail)) + 0.010328 * (-2 * ln(tail)))
    / (
        1 + 1.432788 * sqrt(-2 * ln(tail)) + 0.189269 * (-2 * ln(tail))
        + 0.001308 * power(-2 * ln(tail), 1.5)
    )
);

create or replace macro t_from_normal(z, df) as (
    z + (z ** 3 + z) / (4 * df) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * df ** 2)
    + (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * df ** 3)
);

create or replace macro quantile_against_best(others, df) as t_from_normal(normal_upper_quantile(0.05 / others), df);
