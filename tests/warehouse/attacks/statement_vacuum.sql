-- refused: only SELECT is allowed
VACUUM
