-- Intervals of shares, means and medians, and of correlations. All are closed forms at 95 %; those of differences and
-- ratios are in paired.sql, that of a mean over clusters in clusters.sql. `python -m tests.benchmarks.coverage`
-- simulates how often each covers the truth.

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

-- Number of independent trials that a clustered sample is worth; an aggregate.
create or replace macro effective_trials(successes, trials) as case
    when count_if(successes > 0) > 3 and count_if(successes < trials) > 3
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

-- 95 % interval of a share of successes among independent trials, as [low, high]: Wilson's (doi 10.2307/2276774), with
-- the end at one success (or one failure) of Brown, Cai and DasGupta (doi 10.1214/ss/1009213286), because Wilson's own
-- covers only 84 % there. The counts need not be whole: effective numbers of a clustered sample will do. NULL without
-- a trial.
create or replace macro wilson_interval(successes, trials) as case
    when trials > 0
        then
            list_transform(
                -- A lambda computes its arguments once; a macro repeats them. It must not stand in another lambda:
                -- DuckDB 2.0.1 then confuses the captured columns of different rows.
                [{ 'x': cast(successes as double), 'n': cast(trials as double) }],
                lambda one: [
                    -- Rounding must not move an end past 0 or 1.
                    case
                        when one.x = 0 then 0
                        when one.x <= 1
                            then least(wilson_end(one.x, one.n, -1.959963984540054), ln(1 / 0.95) * one.x / one.n)
                        else wilson_end(one.x, one.n, -1.959963984540054)
                    end,
                    case
                        when one.x = one.n then 1
                        when one.n - one.x <= 1
                            then
                                greatest(
                                    wilson_end(one.x, one.n, 1.959963984540054),
                                    1 - ln(1 / 0.95) * (one.n - one.x) / one.n
                                )
                        else wilson_end(one.x, one.n, 1.959963984540054)
                    end
                ]
            )[1]
end;

-- 95 % interval of the share of successes in trials that come in clusters, as [low, high]; an aggregate over clusters.
-- Wilson's, with the trials replaced by their effective number: Korn and Graubard's (doi 10.2307/2528999), from the
-- sandwich variance and Student's t. If fewer than four clusters have a success, or a failure, the spread between
-- clusters is hardly known, and only the clusters themselves count as trials.
create or replace macro wilson_interval_over_clusters(successes, trials) as wilson_interval(
    sum(successes) / sum(trials) * effective_trials(successes, trials), effective_trials(successes, trials)
);

-- 95 % interval of a share, or of another mean of values from 0 to 1, whose standard error is known, as [low, high]:
-- Wilson's with the number of trials that the error implies. An error of 0 is exact. At a share of 0 or 1 the error
-- implies no number, and the given trials are used. NULL without an error.
create or replace macro wilson_interval_of_error(share, se, trials) as case
    when se = 0 then [cast(share as double), share]
    when se > 0 and share in (0, 1) then wilson_interval(share * trials, trials)
    when se > 0
        then wilson_interval(share * share * (1 - share) / se ** 2, share * (1 - share) / se ** 2)
end;

-- 95 % interval of a mean with a smallest and a largest possible value, as [low, high], from half the width of a
-- symmetric one. NULL without half_width and below three units: over two units the interval extends 13 errors to each
-- side.
create or replace macro interval_within(mean, half_width, smallest, largest, units) as case
    when half_width is not null and units >= 3
        then [greatest(mean - half_width, smallest), least(mean + half_width, largest)]
end;

-- 95 % interval of a task's score, as [low, high]. It is Wilson's for a value from 0 to 1, from the error, or from the
-- samples alone if no error above 0 is known (a mean of values from 0 to 1 varies at most as much as a share). For any
-- other value it is ±1.96 errors, NULL without an error.
create or replace macro interval_of_score(score, se, samples, metric) as case
    when score between 0 and 1 and not ends_with(metric, 'perplexity')
        then
            coalesce(
                wilson_interval_of_error(score, nullif(se, 0), samples),
                wilson_interval(round(score * samples, 6), samples)
            )
    when se > 0 then [score - 1.959963984540054 * se, score + 1.959963984540054 * se]
end;

-- 95 % interval of a correlation, as [low, high], from half the width of a symmetric one, by Fisher's transformation,
-- which keeps the ends within −1 to 1. NULL for a correlation that is perfect but for rounding.
create or replace macro interval_of_correlation(correlation, half_width) as case
    when abs(correlation) < 1 - 1e-12
        then [
            tanh(atanh(correlation) - half_width / (1 - correlation ** 2)),
            tanh(atanh(correlation) + half_width / (1 - correlation ** 2))
        ]
end;

-- The same for an area under a ROC curve: 2 × area − 1 behaves like a correlation.
create or replace macro interval_of_auc(auc, half_width) as case
    when auc > 0 and auc < 1
        then [
            (1 + interval_of_correlation(2 * auc - 1, 2 * half_width)[1]) / 2,
            (1 + interval_of_correlation(2 * auc - 1, 2 * half_width)[2]) / 2
        ]
end;

-- Half the width of a rank correlation's interval over independent pairs, before Fisher's transformation (Bonett and
-- Wright, doi 10.1007/BF02294183). NULL below 5 pairs.
create or replace macro half_width_of_rank_correlation(correlation, pairs) as case
    when pairs >= 5
        then 1.959963984540054 * sqrt((1 + correlation ** 2 / 2) / (pairs - 3)) * (1 - correlation ** 2)
end;

-- What a cluster adds to a correlation beyond its expected part: from its sums of products and squares around the
-- common means, and those of all clusters.
create or replace macro influence_on_correlation(xy, xx, yy, all_xy, all_xx, all_yy) as (
    (xy - all_xy / 2 * (xx / nullif(all_xx, 0) + yy / nullif(all_yy, 0))) / nullif(sqrt(all_xx * all_yy), 0)
);

-- What a cluster adds to an area under a ROC curve beyond its expected part, to first order. negatives_below counts,
-- for each of the cluster's positives, the negatives of all clusters below it, and sums them. positives_below is the
-- same with positives and negatives exchanged.
create or replace macro influence_on_auc(
    negatives_below, positives, positives_below, negatives, auc, all_positives, all_negatives
) as (
    (negatives_below - auc * all_negatives * positives - positives_below + (1 - auc) * all_positives * negatives)
    / (all_positives * all_negatives)
);

-- 95 % interval of the mean of positive values, as [low, high], from half the width of a symmetric one: on a
-- logarithmic scale, because a few large values make the mean's own distribution skewed. NULL for a mean of 0. On
-- simulated lognormal values whose logarithms have a standard deviation of at most 0.7 it covers the truth in 93 to
-- 95 % of cases from 20 clusters on (5 clusters: 92 %). Below 100 clusters it covers 88 to 91 % at a deviation of 1,
-- and 80 to 84 % at 1.5. The KL per prompt has 0.3 to 0.75 in the demo.
create or replace macro interval_of_positive_mean(mean, half_width) as case
    when mean > 0 then [mean * exp(-half_width / mean), mean * exp(half_width / mean)]
end;

-- Probability that Student's t is below the value, within 0.01 from 4 degrees of freedom (Abramowitz and Stegun
-- 26.7.8, and a logistic curve for the normal distribution).
create or replace macro t_probability(t, df) as 1 / (
    1
    + exp(
        -1.5976 * t * (1 - 0.25 / df) / sqrt(1 + t ** 2 / (2 * df))
        - 0.07056 * (t * (1 - 0.25 / df) / sqrt(1 + t ** 2 / (2 * df))) ** 3
    )
);

-- Place in ascending order, from 1, of the value at the lower end of a median's 95 % interval over n independent
-- values; the upper end is at n + 1 − place. The ends are the outermost values that the sign test does not reject, so
-- the interval holds for any distribution, and for values of which only a lower bound is known. NULL below 6 values,
-- whose range covers the median in less than 95 % of studies.
create or replace macro place_of_median_low(n) as list_max(
    -- The place is near n / 2 − √n; the others need no test.
    list_filter(
        range(greatest(1, cast(n / 2.0 - 1.2 * sqrt(n) as bigint) - 2), n // 2 + 1),
        lambda place: mcnemar_exact(place - 1, n - place + 1) <= 0.05
    )
);

-- 95 % interval of the median of independent values, as [low, high], from their ascending list and place_of_median_low
-- of their number. Pass both as columns: a lambda repeats the expressions that it is given. Infinity may stand for
-- values beyond the end of the measurement.
create or replace macro interval_of_median(sorted, place) as [sorted[place], sorted[len(sorted) + 1 - place]];
