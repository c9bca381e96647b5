-- stopped
SELECT len(list_transform(range(60000000), lambda x: x + 1))
