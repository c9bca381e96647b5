-- Two variants on the same samples: the most likely option, the target's margin, differences and ratios of two
-- estimates, McNemar's test, Holm's correction of tests, and masks.

-- Index from 1 of the most likely option, the first of equal ones.
create or replace macro likeliest(log_likelihoods) as list_position(log_likelihoods, list_max(log_likelihoods));

-- Log-likelihood of an option, index from 1, minus the best of the others; NULL if there is no other.
create or replace macro margin_of(log_likelihoods, place) as (
    cast(log_likelihoods[place] as double)
    - list_max(list_concat(log_likelihoods[1:place - 1], log_likelihoods[place + 1:]))
);

-- One step of Holm's step-down correction: the smallest of m p-values is multiplied by m, the next by m − 1, and so
-- on. The caller takes the running maximum over the sorted p-values.
create or replace macro holm_step(p, place, tests) as least(1.0, (tests - place + 1) * p);

-- Weights that at least one of two masks removes, from the shares that they remove and the overlap j of these:
-- |A ∪ B| = (|A| + |B|)/(1 + j).
create or replace macro weights_of_either(weights, removed_share, other_removed_share, jaccard) as (
    weights * (removed_share + other_removed_share) / (1 + coalesce(jaccard, 0))
);

-- One root of the quadratic equation whose roots are the ends of a ratio's interval: side −1 the lower one, 1 the upper
-- one. If the leading coefficient is not positive, the lower one follows from the product of the roots.
create or replace macro end_of_ratio(a, a_side, b, b_side, correlation, side) as case
    when a = 0 and a_side = 0 then 0
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

-- Covariance of two outcomes of the same trials, from the numbers of trials, of successes of each, and of joint
-- successes. Half a trial is added to each of the four cells, or a small sample could claim that the two always agree.
create or replace macro covariance_of_outcomes(trials, one, other, together) as (
    (together + 0.5) / (trials + 2) - (one + 1) / (trials + 2) * (other + 1) / (trials + 2)
);

-- Variance of one outcome, with half a trial added to the same four cells.
create or replace macro variance_of_outcomes(trials, successes) as (
    (successes + 1) * (trials - successes + 1) / (trials + 2) ** 2
);

-- Correlation from a covariance and two variances; 0 if one of them is NULL or 0, as for outcomes that were not
-- measured together.
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
-- the interval of a − r b includes 0. The upper end is NULL if b may be 0, because nothing bounds it.
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

-- 95 % interval of the change of a share between two answers to the same questions, as [low, high]: (gained − lost) /
-- pairs, by Newcombe's square and add (doi 10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C) of the
-- two shares' intervals. It includes 0 whenever McNemar's exact test does not reject at 5 %. NULL without a pair.
create or replace macro interval_of_paired_change(lost, gained, pairs) as list_transform(
    [
        interval_of_difference(
            gained / pairs,
            wilson_interval(gained, pairs)[1],
            wilson_interval(gained, pairs)[2],
            lost / pairs,
            wilson_interval(lost, pairs)[1],
            wilson_interval(lost, pairs)[2],
            -- A sample cannot be both lost and gained.
            case
                when gained < pairs and lost < pairs
                    then -sqrt((gained / pairs) * (lost / pairs) / ((1 - gained / pairs) * (1 - lost / pairs)))
                else 0
            end
        )
    ],
    lambda ends: case
        when pairs = 0 then null
        when coalesce(mcnemar_exact(lost, gained), 1) >= 0.05 then [least(ends[1], 0), greatest(ends[2], 0)]
        else ends
    end
)[1];

-- Two-sided exact McNemar test from the counts of the two discordant kinds: the probability of a split at least as
-- uneven if both were equally likely. NULL if no pair is discordant.
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
