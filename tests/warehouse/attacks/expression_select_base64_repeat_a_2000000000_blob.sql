-- stopped
SELECT base64(repeat('a', 2000000000)::BLOB)
