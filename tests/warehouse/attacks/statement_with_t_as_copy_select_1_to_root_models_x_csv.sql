-- refused: only SELECT is allowed
WITH t AS (COPY (SELECT 1) TO '{root}/models/x.csv') FROM t
