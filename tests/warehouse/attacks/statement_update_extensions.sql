-- refused: only SELECT is allowed
UPDATE EXTENSIONS
