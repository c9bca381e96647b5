-- stopped
SELECT count(*) FROM range(9223372036854775807)
