-- stopped
SELECT repeat('a', 4000000000)
