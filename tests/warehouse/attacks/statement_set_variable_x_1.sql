-- refused: only SELECT is allowed
SET VARIABLE x = 1
