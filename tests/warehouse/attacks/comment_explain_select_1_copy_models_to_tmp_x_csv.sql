-- refused
/* /* */ EXPLAIN SELECT 1 -- */ COPY models TO '/tmp/x.csv'
