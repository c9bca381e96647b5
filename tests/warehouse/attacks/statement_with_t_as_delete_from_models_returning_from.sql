-- refused: only SELECT is allowed
WITH t AS (DELETE FROM models RETURNING *) FROM t
