-- answered
SELECT 1 AS x, 2 AS x
