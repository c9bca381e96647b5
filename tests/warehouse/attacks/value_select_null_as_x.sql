-- answered
SELECT NULL AS x
