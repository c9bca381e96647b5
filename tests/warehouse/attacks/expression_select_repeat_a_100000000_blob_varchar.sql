-- stopped
SELECT repeat('a', 100000000)::BLOB::VARCHAR
