-- stopped
SELECT translate(repeat('a', 400000000), 'a', 'b')
