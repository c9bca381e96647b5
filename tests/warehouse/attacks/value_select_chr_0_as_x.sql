-- answered
SELECT chr(0) AS x
