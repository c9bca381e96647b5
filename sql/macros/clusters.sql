-- Uncertainty of a mean whose observations come in clusters (windows, prompts) that count as independent of each other.
-- `influence` is what each cluster adds to the mean beyond its expected part; clusters may be of any size.

-- Standard error by the sandwich formula. NULL below two clusters.
create or replace macro error_over_clusters(influence) as (
    sqrt(count(influence) / nullif(count(influence) - 1.0, 0) * sum(influence ** 2))
);

-- 97.5 % quantile of Student's t: Cornish-Fisher series around the normal one, within 0.04 % from 4 degrees of freedom.
create or replace macro t_quantile_975(df) as (
    1.959964 + 2.372271 / df + 2.822499 / df ** 2 + 2.555850 / df ** 3 + 1.589534 / df ** 4
);

-- Half the width of a 95 % interval. NULL below 5 clusters, and where no cluster deviates, because the uncertainty is
-- then not known.
create or replace macro half_width_over_clusters(influence) as case
    when count(influence) >= 5 and sum(influence ** 2) > 0
        then t_quantile_975(count(influence) - 1) * error_over_clusters(influence)
end;
