-- stopped
SELECT * FROM range(1000000) a, range(1000000) b WHERE a.range + b.range < 0
