-- refused: only SELECT is allowed
WITH t AS (UPDATE models SET model = 'x' RETURNING *) FROM t
