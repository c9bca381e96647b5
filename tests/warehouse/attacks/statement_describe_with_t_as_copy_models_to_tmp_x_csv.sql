-- refused: only SELECT is allowed
DESCRIBE WITH t AS (COPY models TO '/tmp/x.csv') FROM t
