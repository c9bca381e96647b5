-- answered
SELECT repeat('a', 3000) LIKE repeat('%a', 1500) || 'b'
