-- stopped
FROM (SELECT unnest(range(1000000000)))
