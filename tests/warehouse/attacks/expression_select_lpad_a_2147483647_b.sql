-- stopped
SELECT lpad('a', 2147483647, 'b')
