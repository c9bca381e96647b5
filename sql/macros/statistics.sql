-- Statistics that recur in the questions. Each is NULL if there is too little data.

-- Common logarithm of positive values; NULL for others, which aggregates skip.
create or replace macro log10_positive(x) as case when x > 0 then log10(x) end;

-- Pearson correlation; NULL below 10 pairs or if one side does not vary (DuckDB's corr gives NaN or rounding noise).
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

-- Pearson correlation from a count, sums, squares and products; NULL if a side does not vary.
create or replace macro correlation_of_sums(n, x, y, xx, yy, xy) as (
    (n * xy - x * y) / nullif(sqrt(greatest(n * xx - x * x, 0) * greatest(n * yy - y * y, 0)), 0)
);

-- Spearman's correlation from both sides' count_below; an aggregate. NULL below 5 pairs.
create or replace macro spearman_of_counts(x, y) as case
    when count(x) >= 5 then correlation_of_sums(count(x), sum(x), sum(y), sum(x ** 2), sum(y ** 2), sum(x * y))
end;

-- Number of rows of a group below x, equal ones counting half (the row included): midrank − 1/2.
create or replace macro count_below(x, grp) as (
    (rank() over (partition by grp order by x) - 1 + count(*) over (partition by grp order by x)) / 2.0
);

-- Sum of a over the rows of a group below x, those of equal x (the row included) counting half. Shares its sort with
-- count_below of the same x.
create or replace macro sum_below(a, x, grp) as (
    (
        sum(a) over (partition by grp order by x)
        + coalesce(
            sum(a) over (partition by grp order by x groups between unbounded preceding and 1 preceding), 0
        )
    )
    / 2.0
);

-- Standard error of the mean of independent values; NULL below two.
create or replace macro standard_error(x) as stddev_samp(x) / sqrt(count(x));

-- Standard error of a weighted mean from the errors of its independent values; a NULL error counts as 0. NULL without a
-- weight.
create or replace macro error_of_weighted_mean(se, weight) as (
    sqrt(sum((coalesce(se, 0) * weight) ** 2)) / nullif(sum(weight), 0)
);

-- Standard error of a difference from those of both sides and the covariance of their means.
create or replace macro error_of_difference(se, other_se, covariance) as sqrt(
    -- If both sides move exactly together, rounding must not lead to the root of a negative number.
    case when se ** 2 + other_se ** 2 <= 2 * covariance then 0 else se ** 2 + other_se ** 2 - 2 * covariance end
);

-- Two logits nearer than this are a tie that rounding may reverse, because passes of other shapes round differently. A
-- NULL dtype, of a missing model, counts as float32. A noise recipe rounds like a half type.
create or replace macro tie_margin(dtype, recipe) as case
    when coalesce(dtype, 'float32') = 'float32' and not starts_with(recipe, 'noise-') then 1e-3 else 0.2
end;

-- Geometric mean of values from 0 up, 0 if one is 0; NULL if one is negative or there is no value.
create or replace macro geometric_mean_of(x) as case
    when min(x) = 0 then 0
    when min(x) > 0 then exp(avg(ln(case when x > 0 then x end)))
end;

-- Geometric mean of a list of values from 0 up, each raised by a thousandth of the list's mean, because a value near 0
-- must not decide. Dividing by 1.001 leaves equal values unchanged.
create or replace macro typical_of(x) as exp(
    list_avg(list_transform(x, lambda one: ln(greatest((one + list_avg(x) / 1000) / 1.001, 1e-300))))
);

-- Concordant minus discordant pairs of two parallel lists, every pair counted twice; NULL if an entry is NULL.
create or replace macro concordance(x, y) as case
    when len(list_filter(x, lambda one: one is null)) + len(list_filter(y, lambda one: one is null)) = 0
        then
            list_sum(
                list_transform(
                    range(1, len(x) + 1),
                    lambda i: list_sum(
                        list_transform(
                            range(1, len(x) + 1), lambda j: cast(sign(x[i] - x[j]) * sign(y[i] - y[j]) as bigint)
                        )
                    )
                )
            )
end;

-- Kendall's τ-b of two parallel lists; NULL if one side does not vary or an entry is NULL.
create or replace macro kendall_tau_b(x, y) as (
    concordance(x, y) / nullif(sqrt(cast(concordance(x, x) as double) * concordance(y, y)), 0)
);

-- Tenths of a decade of a probe's damage; a damage below 1e-4 counts as 1e-4.
create or replace macro probe_bin(damage) as cast(round(10 * log10(greatest(damage, 1e-4))) as integer);

-- KL of two distributions over the tokens outside of the options, each renormalised, from their KLs over the vocabulary
-- and over the options and from the options' masses m and n, by the chain rule: KL = KL of the masses + m KL(options) +
-- (1 − m) KL(rest). NULL if one side has no mass outside.
create or replace macro kl_of_rest(kl, kl_options, m, n) as case
    when m > 0 and n > 0 and m < 1 and n < 1
        then
            greatest(
                kl - m * kl_options - m * ln(cast(m as double) / n)
                - (1 - cast(m as double)) * ln((1 - cast(m as double)) / (1 - cast(n as double))),
                0
            )
            / (1 - cast(m as double))
end;
