-- stopped
SELECT i % 10000000, list(i) FROM range(1000000000) t(i) GROUP BY ALL
