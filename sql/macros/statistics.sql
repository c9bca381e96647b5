-- Statistics that recur in the questions. Each gives NULL where the data cannot carry it, never a made-up number.

-- Common logarithm of positive values; zeros drop out of whatever aggregates it.
create or replace macro log10_positive(x) as case when x > 0 then log10(x) end;

-- Pearson correlation; NULL below 10 pairs or where one side does not vary (DuckDB's corr gives NaN or rounding noise).
create or replace macro correlation(y, x) as case
    when
        regr_count(y, x) >= 10
        and min(case when y is not null then x end) < max(case when y is not null then x end)
        and min(case when x is not null then y end) < max(case when x is not null then y end)
        then corr(y, x)
end;

-- Rank from 1 within a group, ties sharing the mean of their ranks; `grp` is a row(...) of the grouping columns.
create or replace macro midrank(x, grp) as (
    rank() over (partition by grp order by x)
    -- The frame is the row's ties; with the same partition and order both windows share one sort.
    + (count(*) over (partition by grp order by x groups between current row and current row) - 1) / 2.0
);

-- Area under the ROC curve from midranks over the whole group (Mann-Whitney): the chance that a random positive ranks
-- above a random negative, ties counting half. NULL below 3 of either.
create or replace macro auc_from_midranks(midrank_of_all, is_positive) as case
    when count_if(is_positive) >= 3 and count_if(not is_positive) >= 3
        then
            (
                sum(midrank_of_all) filter (where is_positive)
                - count_if(is_positive) * (count_if(is_positive) + 1) / 2.0
            )
            / (count_if(is_positive) * count_if(not is_positive))
end;

-- What one prompt adds to a pooled AUC beyond its expected part: the linearised (infinitesimal jackknife) influence.
-- Its squares give a variance that respects prompts as blocks. `above` sums midrank_of_all − midrank_of_class over the
-- prompt's positives, `below` the same over its negatives.
create or replace macro auc_influence(positives, negatives, above, below, all_positives, all_negatives, auc) as (
    (above / all_negatives - positives * auc) / all_positives
    + (negatives - below / all_positives - negatives * auc) / all_negatives
);

-- 97.5 % quantile of Student's t: Cornish-Fisher series around the normal one, within 0.04 % from 4 degrees of freedom.
create or replace macro t_quantile_975(df) as (
    1.959964 + 2.372271 / df + 2.822499 / df ** 2 + 2.555850 / df ** 3 + 1.589534 / df ** 4
);

-- Half the width of a 95 % interval over prompts from their influences. NULL below 5 prompts, and where no prompt
-- deviates, for then nothing says how uncertain the figure is.
create or replace macro half_width_over_prompts(influence) as case
    when count(influence) >= 5 and sum(influence ** 2) > 0
        then
            t_quantile_975(count(influence) - 1)
            * sqrt(count(influence) / (count(influence) - 1.0) * sum(influence ** 2))
end;

-- Standard error of the mean of independent values; NULL below two.
create or replace macro standard_error(x) as stddev_samp(x) / sqrt(count(x));

-- Two logits nearer than this are a tie that rounding may turn: passes of other shapes round differently. NULL, a model
-- that is not there, counts as float32.
create or replace macro tie_margin(dtype) as case when coalesce(dtype, 'float32') = 'float32' then 1e-3 else 0.2 end;
