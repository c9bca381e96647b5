-- answered
SELECT union_value(a := 1) AS x
