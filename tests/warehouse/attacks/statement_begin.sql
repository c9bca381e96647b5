-- refused: only SELECT is allowed
BEGIN
