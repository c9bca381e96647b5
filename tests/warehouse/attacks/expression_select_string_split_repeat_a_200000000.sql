-- stopped
SELECT string_split(repeat('a,', 200000000), ',')
