-- answered
FROM range(1000000000)
