-- stopped
SELECT regexp_extract_all(repeat('a', 100000000), 'a')
