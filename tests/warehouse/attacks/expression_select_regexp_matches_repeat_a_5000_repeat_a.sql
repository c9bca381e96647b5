-- answered or stopped
SELECT regexp_matches(repeat('a', 5000), repeat('a?', 1000) || repeat('a', 1000))
