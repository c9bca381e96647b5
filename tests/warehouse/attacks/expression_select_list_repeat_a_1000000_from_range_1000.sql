-- stopped
SELECT list(repeat('a', 1000000)) FROM range(1000000)
