-- refused: only SELECT is allowed
PIVOT models ON model USING count(*)
