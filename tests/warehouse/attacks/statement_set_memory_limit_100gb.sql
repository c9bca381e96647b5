-- refused: only SELECT is allowed
SET memory_limit = '100GB'
