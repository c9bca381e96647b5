-- answered
SELECT interval '1 year 2 days' AS x
