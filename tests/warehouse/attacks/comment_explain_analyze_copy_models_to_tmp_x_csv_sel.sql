-- wrong: syntax error
EXPLAIN --ANALYZE COPY models TO '/tmp/x.csv' --
SELECT 1
