-- answered or stopped
SELECT repeat('a', 3000) LIKE repeat('%a', 1500) || 'b'
