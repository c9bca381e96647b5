-- refused: only SELECT is allowed
CREATE TABLE x AS SELECT 1
