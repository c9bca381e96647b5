-- stopped
SELECT flatten([range(100000000), range(100000000)])
