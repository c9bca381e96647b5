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

-- The value clamped to 0 to 1; greatest and least would turn NULL into a bound.
create or replace macro within_0_and_1(x) as case when x < 0 then 0 when x > 1 then 1 else x end;

-- One end of Wilson's interval; z is the normal quantile with its sign.
create or replace macro wilson_end(successes, trials, z) as (
    (
        successes + z * z / 2
        + z * sqrt(greatest(successes * (trials - successes) / cast(trials as double), 0) + z * z / 4)
    )
    / (trials + z * z)
);

-- Variance of a share of successes over clusters by the sandwich formula; an aggregate. Cancellation is harmless,
-- because the counts are small whole numbers.
create or replace macro variance_over_clusters(successes, trials) as (
    count(*) / nullif(count(*) - 1.0, 0)
    * (
        sum(successes ** 2) - 2 * (sum(successes) / sum(trials)) * sum(successes * trials)
        + (sum(successes) / sum(trials)) ** 2 * sum(trials ** 2)
    )
    / sum(trials) ** 2
);

-- Number of independent trials that a clustered sample is worth; an aggregate.
create or replace macro effective_trials(successes, trials) as case
    when count_if(successes > 0) > 1 and count_if(successes < trials) > 1
        then
            least(
                sum(trials),
                (sum(successes) / sum(trials)) * (1 - sum(successes) / sum(trials))
                / greatest(variance_over_clusters(successes, trials), 1e-300)
            )
            * (1.959963984540054 / t_quantile_975(count(*) - 1)) ** 2
    -- Kish's number of equally large clusters.
    else sum(trials) ** 2 / sum(trials ** 2)
end;

-- One root of the quadratic equation whose roots are the ends of a ratio's interval: side −1 the lower one, 1 the upper
-- one. The product of the roots gives the lower one where the leading coefficient is not positive.
create or replace macro end_of_ratio(a, a_side, b, b_side, correlation, side) as case
    when b ** 2 - b_side ** 2 > 1e-12
        then
            (
                a * b - correlation * a_side * b_side
                + side * sqrt(
                    greatest(
                        (a * b - correlation * a_side * b_side) ** 2
                        - (b ** 2 - b_side ** 2) * (a ** 2 - a_side ** 2),
                        0
                    )
                )
            )
            / (b ** 2 - b_side ** 2)
    else
        (a ** 2 - a_side ** 2)
        / nullif(
            a * b - correlation * a_side * b_side
            + sqrt(
                greatest(
                    (a * b - correlation * a_side * b_side) ** 2
                    - (b ** 2 - b_side ** 2) * (a ** 2 - a_side ** 2),
                    0
                )
            ),
            0
        )
end;

-- 95 % interval of a share of successes among independent trials, as [low, high]: Wilson's (doi 10.2307/2276774), with
-- the end at one success (or one failure) of Brown, Cai and DasGupta (doi 10.1214/ss/1009213286), because Wilson's own
-- covers only 84 % there. The counts need not be whole: effective numbers of a clustered sample will do. NULL without
-- a trial.
create or replace macro wilson_interval(successes, trials) as case
    when trials > 0
        then
            list_transform(
                [cast(-1.959963984540054 as double), cast(1.959963984540054 as double)],
                -- Rounding must not move an end past 0 or 1.
                lambda z: case
                    when z < 0 and successes = 0 then 0
                    when z > 0 and successes = trials then 1
                    when z < 0 and successes <= 1
                        then least(wilson_end(successes, trials, z), ln(1 / 0.95) * successes / trials)
                    when z > 0 and trials - successes <= 1
                        then
                            greatest(
                                wilson_end(successes, trials, z), 1 - ln(1 / 0.95) * (trials - successes) / trials
                            )
                    else wilson_end(successes, trials, z)
                end
            )
end;

-- 95 % interval of the share of successes in trials that come in clusters, as [low, high]; an aggregate over clusters.
-- Wilson's, with the trials replaced by their effective number: Korn and Graubard's (doi 10.2307/2528999), from the
-- sandwich variance and Student's t. Where at most one cluster has a success, or at most one a failure, the spread
-- between clusters is not known, and only the clusters themselves count as trials.
create or replace macro wilson_interval_over_clusters(successes, trials) as wilson_interval(
    sum(successes) / sum(trials) * effective_trials(successes, trials), effective_trials(successes, trials)
);

-- Covariance of two outcomes of the same trials from the number of trials, of successes of either, and of both; half a
-- trial is added to each of the four cells, so that a small sample does not claim that the two always go together.
create or replace macro covariance_of_outcomes(trials, one, other, together) as (
    (together + 0.5) / (trials + 2) - (one + 1) / (trials + 2) * (other + 1) / (trials + 2)
);

-- Variance of one outcome, with half a trial added to the same four cells.
create or replace macro variance_of_outcomes(trials, successes) as (
    (successes + 1) * (trials - successes + 1) / (trials + 2) ** 2
);

-- Correlation from a covariance and two variances; 0 where one is NULL or 0, as for what was not measured together.
create or replace macro correlation_or_0(covariance, variance, other_variance) as case
    when abs(covariance) < sqrt(variance * other_variance) then covariance / sqrt(variance * other_variance)
    when variance * other_variance > 0 then coalesce(sign(covariance), 0)
    else 0
end;

-- 95 % interval of a − b, as [low, high], from both estimates, their intervals and the correlation of their errors: the
-- method of variance estimates recovery (Zou and Donner, doi 10.1002/sim.3095), which keeps both intervals' skewness.
create or replace macro interval_of_difference(a, a_low, a_high, b, b_low, b_high, correlation) as [
    a - b - error_of_difference(a - a_low, b_high - b, correlation * (a - a_low) * (b_high - b)),
    a - b + error_of_difference(a_high - a, b - b_low, correlation * (a_high - a) * (b - b_low))
];

-- 95 % interval of a / b for b > 0, the same way (Donner and Zou, doi 10.1177/0962280210383082): the ratios r for which
-- the interval of a − r b includes 0. The upper end is NULL where b may be 0, because nothing bounds it.
create or replace macro interval_of_ratio(a, a_low, a_high, b, b_low, b_high, correlation) as [
    end_of_ratio(a, a - a_low, b, case when a_low >= 0 then b_high - b else b - b_low end, correlation, -1),
    case
        when b_low > 0
            then
                end_of_ratio(
                    a, a_high - a, b, case when a_high >= 0 then b - b_low else b_high - b end, correlation, 1
                )
    end
];

-- 95 % interval of a correlation from half the width of a symmetric one, as [low, high]: the latter after Fisher's
-- transformation, which keeps the ends within −1 to 1. NULL for a perfect correlation.
create or replace macro interval_of_correlation(correlation, half_width) as case
    when abs(correlation) < 1
        then [
            tanh(atanh(correlation) - half_width / (1 - correlation ** 2)),
            tanh(atanh(correlation) + half_width / (1 - correlation ** 2))
        ]
end;

-- 95 % interval of the change of a share between two answers to the same questions, as [low, high]: (gained − lost) /
-- pairs, by Newcombe's square and add (doi 10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C) of the
-- two shares' intervals. It includes 0 wherever McNemar's exact test does not reject at 5 %.
create or replace macro interval_of_paired_change(lost, gained, pairs) as list_transform(
    [
        interval_of_difference(
            gained / pairs,
            wilson_interval(gained, pairs)[1],
            wilson_interval(gained, pairs)[2],
            lost / pairs,
            wilson_interval(lost, pairs)[1],
            wilson_interval(lost, pairs)[2],
            -- A sample is not both.
            -sqrt((gained / pairs) * (lost / pairs) / nullif((1 - gained / pairs) * (1 - lost / pairs), 0))
        )
    ],
    lambda ends: case
        when coalesce(mcnemar_exact(lost, gained), 1) >= 0.05 then [least(ends[1], 0), greatest(ends[2], 0)]
        else ends
    end
)[1];

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
