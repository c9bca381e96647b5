-- refused: only SELECT is allowed
CALL pragma_version()
