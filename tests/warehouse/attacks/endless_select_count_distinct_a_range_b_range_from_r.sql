-- stopped
SELECT count(DISTINCT a.range * b.range) FROM range(100000) a, range(1000000) b
