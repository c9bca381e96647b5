-- stopped
SELECT regexp_replace(repeat('a', 100000000), 'a', repeat('b', 100), 'g')
