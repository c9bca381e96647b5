-- stopped
SELECT count(*) FROM range(1000000) a, range(1000000) b
