-- refused: only SELECT is allowed
DETACH memory
