-- stopped
SELECT len(range(2000000000))
