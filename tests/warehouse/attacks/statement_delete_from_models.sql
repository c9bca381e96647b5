-- refused: only SELECT is allowed
DELETE FROM models
