-- stopped
SELECT * FROM models, range(1000000000) a, range(1000000000) b ORDER BY ALL
