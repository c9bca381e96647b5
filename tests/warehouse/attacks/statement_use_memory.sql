-- refused: only SELECT is allowed
USE memory
