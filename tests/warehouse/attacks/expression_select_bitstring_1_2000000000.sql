-- stopped
SELECT bitstring('1', 2000000000)
