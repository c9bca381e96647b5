-- refused: only SELECT is allowed
INSTALL httpfs
