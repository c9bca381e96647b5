-- stopped
SELECT generate_series(1, 4000000000)
