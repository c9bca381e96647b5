-- The rule of verdicts: what may be said of a variant from the 95 % intervals of its losses.

-- The largest share that may be lost if a verdict says `holds`.
create or replace macro verdict_tolerance() as 0.1;

-- The smallest number of independent units (prompts, questions, answers) on which a verdict may rest.
create or replace macro verdict_min_units() as 30;

-- Whether evidence can carry a verdict. A prediction rests on variants of other models; loss_predictions refuses too
-- few of them.
create or replace macro is_evidence_enough(evidence, units) as coalesce(
    evidence = 'prediction' or units >= verdict_min_units(), false
);

-- The evidence by which one measure is judged, as a struct; an aggregate. It is the first with enough units in a fixed
-- order, else the first. The order depends on what was measured, never on a loss: right answers to tasks, right answers
-- to the study's prompts, the dense model's answers to tasks, its choices among options, predictions from other models.
create or replace macro declared_evidence(evidence, loss, loss_low, loss_high, lost, total, units) as arg_min(
    struct_pack(
        evidence := evidence, loss := loss, low := loss_low, high := loss_high, lost := lost, total := total,
        units := units
    ),
    row(
        not is_evidence_enough(evidence, units),
        list_position(['score', 'graded', 'agreement', 'options', 'prediction', 'tokens', 'texts'], evidence)
    )
);

-- An end of a 95 % interval, moved away from the loss until the intervals of all `variants` hold at the same time. The
-- factor 1 + ln(variants)/1.96² divides the error at 0 of n units by the number of variants (Bonferroni). It widens
-- intervals in the middle of the scale, and Student's t, slightly more than necessary.
create or replace macro held_together(loss, loss_end, variants) as (
    loss + (loss_end - loss) * (1 + ln(variants) / 3.841458820694124)
);

-- What an interval says about one measure. An end that is not known is NULL and supports nothing.
create or replace macro word_of(evidence, loss_low, loss_high, units, tolerance) as case
    when not is_evidence_enough(evidence, units) then 'too little evidence'
    when loss_high <= tolerance then 'holds'
    when loss_low > tolerance then 'fails'
    else 'too little evidence'
end;

-- The word for right answers, from the words for writing and choosing, which are NULL if not measured.
create or replace macro quality_of(writing, choosing) as case
    when writing = 'fails' or choosing = 'fails' then 'fails'
    when writing = 'holds' and choosing = 'holds' then 'holds'
    else 'too little evidence'
end;

-- The verdict on a variant, from the words for its measures; a word is NULL if not measured.
create or replace macro verdict_of(fidelity, writing, choosing, alive) as case
    when alive = 'holds' and quality_of(writing, choosing) = 'holds' then 'safe'
    when choosing = 'holds' and (alive = 'fails' or writing = 'fails') then 'chooses only'
    when alive = 'fails' or quality_of(writing, choosing) = 'fails' then 'not safe'
    when alive = 'holds' and fidelity = 'fails' then 'writes other text'
    else 'too little evidence'
end;

-- Number of units at which the interval around the same loss would exclude the tolerance, if its width shrinks with the
-- root of that number; at least verdict_min_units. NULL if the units suffice already, if the loss equals the tolerance,
-- or if the interval is not known.
create or replace macro units_to_decide(loss, loss_low, loss_high, units, tolerance) as case
    when loss <> tolerance and (loss_low is not null or units < verdict_min_units())
        then greatest(
            if(units < verdict_min_units(), verdict_min_units(), null),
            if(
                loss_low <= tolerance and loss_high > tolerance,
                cast(
                    least(
                        1e12,
                        ceil(
                            units * power(
                                if(loss < tolerance, loss_high - loss, loss - loss_low) / (loss - tolerance), 2
                            )
                        )
                    ) as bigint
                ),
                null
            )
        )
end;

-- Upper quantile of the normal distribution (Abramowitz and Stegun 26.2.23).
create or replace macro normal_upper_quantile(tail) as (
    sqrt(-2 * ln(tail))
    - (2.515517 + 0.802853 * sqrt(-2 * ln(tail)) + 0.010328 * (-2 * ln(tail)))
    / (
        1 + 1.432788 * sqrt(-2 * ln(tail)) + 0.189269 * (-2 * ln(tail))
        + 0.001308 * power(-2 * ln(tail), 1.5)
    )
);

-- Quantile of Student's t from the normal one, by the Cornish-Fisher series; too small below 4 degrees of freedom.
create or replace macro t_from_normal(z, df) as (
    z + (z ** 3 + z) / (4 * df) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * df ** 2)
    + (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * df ** 3)
);

-- Upper quantile of Student's t at which each of `others` one-sided comparisons with the best errs in 5 % / others
-- (Bonferroni).
create or replace macro quantile_against_best(others, df) as t_from_normal(normal_upper_quantile(0.05 / others), df);
