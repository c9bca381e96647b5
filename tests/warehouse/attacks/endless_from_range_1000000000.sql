-- answered or stopped
FROM range(1000000000)
