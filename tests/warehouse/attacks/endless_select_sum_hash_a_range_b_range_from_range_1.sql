-- stopped
SELECT sum(hash(a.range * b.range)) FROM range(10000000) a, range(10000000) b
