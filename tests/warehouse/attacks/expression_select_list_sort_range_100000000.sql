-- stopped
SELECT list_sort(range(100000000))
