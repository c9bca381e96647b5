-- refused: only SELECT is allowed
ANALYZE
