-- answered
SELECT [interval '1 day'] AS x
