-- answered
SELECT date '290000-01-01' AS x
