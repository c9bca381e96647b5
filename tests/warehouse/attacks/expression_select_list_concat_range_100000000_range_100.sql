-- stopped
SELECT list_concat(range(100000000), range(100000000))
