-- The fit of second-order estimates to the truth, for several estimates in one pass.

-- Estimate over truth in float32, as both are stored; NULL if the truth is 0.
create or replace macro ratio_to_truth(estimate, truth) as case when truth > 0 then estimate / truth end;

-- The value if both it and its partner have a logarithm, else NULL.
create or replace macro if_both_positive(x, partner) as case when x > 0 and partner > 0 then x end;

-- All figures of one estimate as a struct, over the rows whose truth is above 0. The correlations are NULL if
-- `correlation` is NULL. For speed they repeat its conditions instead of calling it: whether a logarithm varies is
-- checked on its argument, and natural logarithms have the same correlation as common ones but are cheaper.
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

-- Index, from 1, of the interval between ascending cuts into which a value falls; a value equal to a cut is below it.
create or replace macro part_of(value, cuts) as cast(1 + len(list_filter(cuts, lambda cut: cut < value)) as integer);

-- The layer whose median ratio is furthest from 1 on a log scale, and that ratio; the first of equal layers. An
-- estimate of 0 counts as the furthest.
create or replace macro worst_layer_of(layer, ratio) as arg_min(
    row(layer, ratio), row(-abs(ln(greatest(ratio, 1e-300))), layer)
) filter (where ratio is not null);
