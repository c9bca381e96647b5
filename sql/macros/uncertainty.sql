-- Bootstrap over whole units (prompts, samples, tasks) with fixed draws: equal rows always give the same interval.

-- Number of times that each unit is drawn in each of 400 resamples with replacement: a list of 400 lists of weights.
-- The draws come from MD5, which is the same in every version of DuckDB.
create or replace macro bootstrap_weights(units) as list_transform(
    range(400),
    lambda resample: list_transform(
        -- The range adds each unit once, so that every unit has a count; the counts are in the order of the units.
        map_values(
            list_histogram(
                list_concat(
                    range(units),
                    list_transform(
                        range(units),
                        lambda draw: cast(md5_number_lower(resample || '/' || draw) % cast(units as ubigint) as bigint)
                    )
                )
            )
        ),
        lambda times: cast(times - 1 as double)
    )
);

-- 95 % percentile interval of a figure over its resamples, as [low, high]; resamples where the figure is NULL are
-- skipped. NULL below 5 units, and where no resample differs, because the uncertainty is then not known.
create or replace macro bootstrap_interval(figure, units) as case
    when units >= 5 and min(figure) < max(figure) then quantile_cont(figure, [0.025, 0.975])
end;

-- Weighted mean of per-unit sums over per-unit counts; NULL where the resample has none of them.
create or replace macro resampled_share(weights, sums, counts) as (
    list_dot_product(weights, sums) / nullif(list_dot_product(weights, counts), 0)
);

-- Pearson correlation of a resample from per-unit counts, sums, squares and products; NULL where a side does not vary.
create or replace macro resampled_correlation(weights, counts, x, y, xx, yy, xy) as correlation_of_sums(
    list_dot_product(weights, counts),
    list_dot_product(weights, x),
    list_dot_product(weights, y),
    list_dot_product(weights, xx),
    list_dot_product(weights, yy),
    list_dot_product(weights, xy)
);

-- Area under the ROC curve of a resample, exact in the units' own weights and first order in those of the others, so
-- that it may exceed 0 to 1: auc = Σ negatives_below / (P N) = 1 − Σ positives_below / (P N) over all P positives and N
-- negatives, where negatives_below sums over a unit's positives the number of negatives below, positives_below over its
-- negatives the number of positives below; equal ones count half.
create or replace macro resampled_auc(
    weights, negatives_below, positives, positives_below, negatives, auc
) as (
    resampled_share(weights, negatives_below, positives) / list_sum(negatives)
    - resampled_share(weights, positives_below, negatives) / list_sum(positives)
    + 1 - auc
);

-- Standard error of a share where every trial had the same result: Agresti and Coull's, as if two more of either result
-- had been seen (doi 10.2307/2685469).
create or replace macro error_of_unanimous(trials) as sqrt(2.0 * (trials + 2) / power(trials + 4, 3));

-- The value clamped to 0 to 1; greatest and least would turn NULL into a bound.
create or replace macro within_0_and_1(x) as case when x < 0 then 0 when x > 1 then 1 else x end;

-- 95 % Wilson interval of a share of successes, as [low, high]; stays within 0 to 1. NULL without a trial.
create or replace macro wilson_interval(successes, trials) as case
    when trials > 0
        then
            list_transform(
                [cast(-1.959963984540054 as double), cast(1.959963984540054 as double)],
                -- Rounding must not move an end past 0 or 1.
                lambda z: case
                    when z < 0 and successes = 0 then 0
                    when z > 0 and successes = trials then 1
                    else
                        (
                            successes + z * z / 2
                            + z * sqrt(successes * (trials - successes) / cast(trials as double) + z * z / 4)
                        )
                        / (trials + z * z)
                end
            )
end;

-- Two-sided exact McNemar test from the counts of the two discordant kinds: the probability of a split at least as
-- uneven if both were equally likely. NULL where no pair is discordant.
create or replace macro mcnemar_exact(one, other) as case
    when one + other > 0
        then
            least(
                1,
                2 * list_sum(
                    list_transform(
                        range(least(one, other) + 1),
                        lambda k: exp(
                            lgamma(one + other + 1) - lgamma(k + 1) - lgamma(one + other - k + 1)
                            - (one + other) * ln(2)
                        )
                    )
                )
            )
end;
