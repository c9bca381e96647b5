-- stopped
SELECT array_agg(i) FROM range(10000000000) t(i)
