-- refused: only SELECT is allowed
SELECT * FROM (WITH a AS (WITH t AS (COPY models TO '/tmp/x.csv') FROM t) FROM a)
