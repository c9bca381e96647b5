-- refused: only SELECT is allowed
PREPARE p AS SELECT 1
