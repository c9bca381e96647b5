-- stopped
SELECT unnest(range(100000000)), unnest(range(100000000))
