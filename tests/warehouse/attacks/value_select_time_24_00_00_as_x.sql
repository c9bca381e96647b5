-- answered
SELECT time '24:00:00' AS x
