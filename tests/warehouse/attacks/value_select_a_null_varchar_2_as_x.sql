-- answered
SELECT ['a', NULL]::VARCHAR[2] AS x
