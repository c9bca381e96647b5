-- answered or stopped
SELECT i, repeat('x', 1000) FROM range(100000000) t(i)
