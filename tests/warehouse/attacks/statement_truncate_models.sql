-- refused: only SELECT is allowed
TRUNCATE models
