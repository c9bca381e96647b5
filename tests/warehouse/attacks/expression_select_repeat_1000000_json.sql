-- wrong: SQL: Malformed JSON at byte 10
SELECT repeat('[', 1000000)::JSON
