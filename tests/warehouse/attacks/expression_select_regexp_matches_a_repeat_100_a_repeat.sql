-- wrong: SQL: invalid repetition size: 
SELECT regexp_matches('a', repeat('(', 100) || 'a' || repeat('{1,900})', 100))
