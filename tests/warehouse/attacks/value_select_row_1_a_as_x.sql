-- answered
SELECT row(1, 'a') AS x
