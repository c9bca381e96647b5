-- stopped
SELECT mode(i) FROM range(1000000000) t(i)
