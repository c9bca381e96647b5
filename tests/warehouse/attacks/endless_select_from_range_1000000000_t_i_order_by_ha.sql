-- stopped
SELECT * FROM range(1000000000) t(i) ORDER BY hash(i)
