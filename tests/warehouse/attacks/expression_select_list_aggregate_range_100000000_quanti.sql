-- stopped
SELECT list_aggregate(range(100000000), 'quantile_cont', 0.5)
