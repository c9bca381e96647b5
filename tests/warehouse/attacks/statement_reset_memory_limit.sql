-- refused: only SELECT is allowed
RESET memory_limit
