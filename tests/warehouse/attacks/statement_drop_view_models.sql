-- refused: only SELECT is allowed
DROP VIEW models
