-- stopped
SELECT array_to_string(range(100000000), ',')
