-- stopped
SELECT rpad('a', 2147483647, 'b')
