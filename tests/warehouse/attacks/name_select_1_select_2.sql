-- refused: only one statement
SELECT 1; SELECT 2
