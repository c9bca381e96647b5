-- stopped
SELECT md5(repeat('a', 4000000000))
