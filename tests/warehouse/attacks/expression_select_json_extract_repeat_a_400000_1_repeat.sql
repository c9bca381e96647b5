-- answered or stopped
SELECT json_extract(repeat('{"a":', 400000) || '1' || repeat('}', 400000), '$.a')
