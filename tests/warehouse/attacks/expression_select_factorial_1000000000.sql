-- wrong: SQL: Value out of range
SELECT factorial(1000000000)
