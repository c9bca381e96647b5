-- stopped
SELECT list_distinct(range(100000000))
