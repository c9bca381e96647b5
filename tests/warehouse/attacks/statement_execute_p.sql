-- refused: only SELECT is allowed
EXECUTE p
