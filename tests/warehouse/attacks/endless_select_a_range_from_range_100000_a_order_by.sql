-- stopped
SELECT a.range FROM range(100000) a ORDER BY (SELECT count(*) FROM range(100000) b WHERE b.range * a.range % 7 = 3)
