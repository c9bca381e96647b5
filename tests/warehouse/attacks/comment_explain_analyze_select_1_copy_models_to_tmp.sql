-- refused
EXPLAIN ANALYZE /* /* */ SELECT 1 -- */ COPY models TO '/tmp/x.csv'
