-- refused: only SELECT is allowed
INSERT INTO models VALUES (1)
