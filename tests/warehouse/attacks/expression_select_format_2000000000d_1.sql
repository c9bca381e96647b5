-- stopped
SELECT format('{:2000000000d}', 1)
