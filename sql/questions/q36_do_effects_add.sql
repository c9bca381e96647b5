-- Do effects of single treatments add up?
-- grain: one row per model × search × strategy with an allocation whose treatments all have an effect alone.
-- key: model, search, strategy
-- inputs: search_interaction
-- how to read: ratio is the measured KL of an allocation over the sum of its treatments' effects alone: 1 if they add
--   up, above 1 if together they do more damage, below 1 if less. Some of these effects are computed
--   (search_interaction). log_correlation is near 1 if the sum puts allocations in their measured order, even if the
--   ratio is not 1; NULL below 10 allocations. Only allocations with at least two treatments count. Allocations of one
--   strategy are alike, and an interval over them would be too narrow, so none is given; random ones differ most.
-- reason: a search that minimises sums of effects relies on it; EvoPress (2410.14649) found that they need not add up.
-- columns:
--   n_allocations: Allocations with at least two treatments [trials]
--   ratio_p10: 10th percentile of the ratio [ratio]
--   ratio_median: Median of the ratio [ratio]
--   above_sum_share: Share of allocations with a ratio above 1 [share]
--   log_correlation: Correlation of the logarithms of sum and measurement; NULL below 10 [-1 to 1]
select
    model, search, strategy,
    count(*) as n_allocations,
    quantile_cont(ratio, 0.1) as ratio_p10,
    median(ratio) as ratio_median,
    quantile_cont(ratio, 0.9) as ratio_p90,
    count_if(ratio > 1) / count(ratio) as above_sum_share,
    correlation(log10_positive(typical_nats), log10_positive(effects_sum_nats)) as log_correlation
from search_interaction
where n_treated >= 2 and ratio is not null
group by all
order by model, search, strategy
