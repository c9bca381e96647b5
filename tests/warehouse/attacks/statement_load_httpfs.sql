-- refused: only SELECT is allowed
LOAD httpfs
