-- How a second-order estimate meets its truth, for one pass over several estimates at once.

-- Estimate over truth in float32, as both are stored; NULL where there is no truth to meet.
create or replace macro ratio_to_truth(estimate, truth) as case when truth > 0 then estimate / truth end;

-- The value where both it and its partner have a logarithm.
create or replace macro if_both_positive(x, partner) as case when x > 0 and partner > 0 then x end;

-- All figures of one estimate as a struct, over the rows whose truth is above 0. The correlations are NULL where
-- `correlation` gives NULL; they are spelled out because logarithms vary where their arguments do, which is cheaper to
-- see, and because natural logarithms are cheaper than common ones and correlate the same.
create or replace macro fit_to_truth(estimate, truth) as struct_pack(
    -- count_if is a HUGEINT, which other tools read as a decimal.
    n := cast(count_if(truth > 0) as bigint),
    pearson_log10 := case
        when
            count(if_both_positive(estimate, truth)) >= 10
            and min(if_both_positive(estimate, truth)) < max(if_both_positive(estimate, truth))
            and min(if_both_positive(truth, estimate)) < max(if_both_positive(truth, estimate))
            then corr(ln(case when estimate > 0 then estimate end), ln(case when truth > 0 then truth end))
    end,
    pearson := case
        when
            count_if(truth > 0) >= 10
            and min(case when truth > 0 then estimate end) < max(case when truth > 0 then estimate end)
            and min(case when truth > 0 then truth end) < max(case when truth > 0 then truth end)
            then corr(
                cast(case when truth > 0 then estimate end as double),
                cast(case when truth > 0 then truth end as double)
            )
    end,
    ratio_quantiles := quantile_cont(ratio_to_truth(estimate, truth), [0.1, 0.5, 0.9]),
    share_within_10_percent := (
        count_if(abs(ratio_to_truth(cast(estimate as double), truth) - 1) <= 0.1) / nullif(count_if(truth > 0), 0)
    )
);

-- The part, from 1, into which ascending cuts put a value; what equals a cut lies below it.
create or replace macro part_of(value, cuts) as cast(1 + len(list_filter(cuts, lambda cut: cut < value)) as integer);

-- The layer whose median ratio is furthest from 1 on a log scale, and that ratio. Of equal offenders the first layer is
-- named; an estimate of 0 is the worst there is.
create or replace macro worst_layer_of(layer, ratio) as arg_min(
    row(layer, ratio), row(-abs(ln(greatest(ratio, 1e-300))), layer)
) filter (where ratio is not null);
