-- stopped
SELECT mismatches(repeat('a', 400000000), repeat('b', 400000000))
