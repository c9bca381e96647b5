-- stopped
SELECT replace(repeat('a', 100000000), 'a', repeat('b', 1000))
