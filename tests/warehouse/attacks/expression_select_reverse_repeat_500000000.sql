-- stopped
SELECT reverse(repeat('ä', 500000000))
