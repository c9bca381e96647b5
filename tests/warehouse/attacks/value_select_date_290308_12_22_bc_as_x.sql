-- answered
SELECT date '290308-12-22 (BC)' AS x
