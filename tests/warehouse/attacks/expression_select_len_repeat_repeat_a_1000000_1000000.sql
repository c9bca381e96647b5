-- wrong: SQL: Cannot create a string of
SELECT len(repeat(repeat('a', 1000000), 1000000))
