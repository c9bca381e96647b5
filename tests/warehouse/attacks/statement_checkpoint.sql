-- refused: only SELECT is allowed
CHECKPOINT
