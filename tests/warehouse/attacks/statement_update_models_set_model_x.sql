-- refused: only SELECT is allowed
UPDATE models SET model = 'x'
