-- refused: only SELECT is allowed
EXPORT DATABASE '/tmp/x'
