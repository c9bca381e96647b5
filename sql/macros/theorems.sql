-- How a second-order estimate meets its truth, for one pass over several estimates at once.

-- Estimate over truth in float32, as both are stored; NULL where there is no truth to meet.
create or replace macro ratio_to_truth(estimate, truth) as case when truth > 0 then estimate / truth end;

-- All figures of one estimate as a struct, over the rows whose truth is above 0.
create or replace macro fit_to_truth(estimate, truth) as struct_pack(
    -- count_if is a HUGEINT, which other tools read as a decimal.
    n := cast(count_if(truth > 0) as bigint),
    pearson_log10 := correlation(log10_positive(case when truth > 0 then estimate end), log10_positive(truth)),
    pearson := correlation(
        cast(case when truth > 0 then estimate end as double), cast(case when truth > 0 then truth end as double)
    ),
    ratio_quantiles := quantile_cont(ratio_to_truth(estimate, truth), [0.1, 0.5, 0.9]),
    share_within_10_percent := avg(
        cast(abs(ratio_to_truth(cast(estimate as double), truth) - 1) <= 0.1 as integer)
    )
);

-- The part, from 1, into which ascending cuts put a value; what equals a cut lies below it.
create or replace macro part_of(value, cuts) as cast(1 + len(list_filter(cuts, lambda cut: cut < value)) as integer);

-- The layer whose median ratio is furthest from 1 on a log scale, and that ratio. Of equal offenders the first layer is
-- named; an estimate of 0 is the worst there is.
create or replace macro worst_layer_of(layer, ratio) as arg_min(
    row(layer, ratio), row(-abs(ln(greatest(ratio, 1e-300))), layer)
) filter (where ratio is not null);
