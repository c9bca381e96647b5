-- stopped
SELECT 'a' LIKE repeat('%a', 50000000)
