-- Standard error of a mean from what each independent cluster adds to it beyond its expected part (sandwich formula,
-- clusters of any size). NULL below two clusters.
create or replace macro error_over_clusters(influence) as (
    sqrt(count(influence) / nullif(count(influence) - 1.0, 0) * sum(influence ** 2))
);
