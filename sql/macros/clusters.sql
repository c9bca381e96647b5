-- Uncertainty of a mean whose observations come in clusters (windows, prompts) that count as independent of each other.
-- `influence` is what each cluster adds to the mean beyond its expected part; clusters may be of any size.

-- Standard error by the sandwich formula. NULL below two clusters.
create or replace macro error_over_clusters(influence) as (
    sqrt(count(influence) / nullif(count(influence) - 1.0, 0) * sum(influence ** 2))
);

-- 97.5 % quantile of Student's t at 1, 2, 3, … degrees of freedom: exact up to 3, then the Cornish-Fisher series
-- around the normal one, within 0.04 %. NULL below 1.
create or replace macro t_quantile_975(df) as case
    when df >= 4
        then 1.959964 + 2.372271 / df + 2.822499 / df ** 2 + 2.555850 / df ** 3 + 1.589534 / df ** 4
    when df >= 1 then [12.706204736, 4.302652730, 3.182446305][cast(df as integer)]
end;

-- Half the width of a 95 % interval by Student's t. NULL below two clusters, and if no cluster deviates, because the
-- uncertainty is then not known.
create or replace macro half_width_over_clusters(influence) as case
    when sum(influence ** 2) > 0
        then t_quantile_975(count(influence) - 1) * error_over_clusters(influence)
end;

-- Sum over clusters of (total − overall mean × size)².
create or replace macro squared_deviations(total, size) as (
    sum(total ** 2) - 2 * (sum(total) / sum(size)) * sum(total * size)
    + (sum(total) / sum(size)) ** 2 * sum(size ** 2)
);

-- Variance of a mean from each cluster's total and size, by the sandwich formula: an aggregate that needs no second
-- pass over the clusters. NULL below two clusters; 0 if they deviate by no more than rounding.
create or replace macro variance_over_clusters(total, size) as (
    count(total) / nullif(count(total) - 1.0, 0)
    * case
        when squared_deviations(total, size) > 1e-13 * sum(total ** 2) then squared_deviations(total, size)
        else 0
    end
    / sum(size) ** 2
);

-- Half the width of a mean's 95 % interval from each cluster's total and size, as half_width_over_clusters.
create or replace macro half_width_of_mean(total, size) as case
    when variance_over_clusters(total, size) > 0
        then t_quantile_975(count(total) - 1) * sqrt(variance_over_clusters(total, size))
end;

-- Half the width of the 95 % interval of an unweighted mean of scores, from each score's standard error and number of
-- queries; an aggregate. NULL if a score has no error.
create or replace macro half_width_of_scores(se, n) as case
    when count(se) = count(*) then t_quantile_975(min(n) - 1) * sqrt(sum(se ** 2)) / count(*)
end;

-- Mean of values of independent units, half the width of its 95 % interval, and their number, as a struct; an
-- aggregate. half_width is NULL below two units and if none deviates.
create or replace macro mean_over_units(x) as struct_pack(
    mean := avg(x),
    half_width := half_width_of_mean(x, case when x is not null then 1.0 end),
    units := count(x)
);

-- On which side of 0 a mean from mean_over_units lies. All of the given number of comparisons are right in 95 of 100
-- studies (Bonferroni). NULL below 6 units, and if the error is not known.
create or replace macro direction_of_mean(average, comparisons) as case
    when average.units < 6 or average.half_width is null then null
    when
        abs(average.mean) <= average.half_width / t_quantile_975(average.units - 1)
        * quantile_against_best(2 * greatest(comparisons, 1), average.units - 1)
        then 'no difference shown'
    when average.mean > 0 then 'further'
    else 'nearer'
end;
