-- stopped
SELECT upper(repeat('ß', 1000000000))
