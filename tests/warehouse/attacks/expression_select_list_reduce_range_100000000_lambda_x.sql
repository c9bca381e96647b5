-- stopped
SELECT list_reduce(range(100000000), lambda x, y: x + y)
