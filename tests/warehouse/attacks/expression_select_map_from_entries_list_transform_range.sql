-- stopped
SELECT map_from_entries(list_transform(range(50000000), lambda x: {'k': x, 'v': x}))
