-- refused: only SELECT is allowed
WITH t AS (INSERT INTO models VALUES (1) RETURNING *) FROM t
