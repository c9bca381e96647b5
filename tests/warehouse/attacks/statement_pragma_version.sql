-- refused: only SELECT is allowed
PRAGMA version
