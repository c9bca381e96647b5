-- refused: only SELECT is allowed
IMPORT DATABASE '/tmp/x'
