-- refused: only SELECT is allowed
SELECT (WITH t AS MATERIALIZED (COPY models TO '/tmp/x.csv') SELECT count(*) FROM t)
