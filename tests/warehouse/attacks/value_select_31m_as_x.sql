-- answered
SELECT '‮[31m' AS x
