-- refused: only SELECT is allowed
EXPLAIN ANALYZE COPY models TO '/tmp/x.csv'
