-- refused: only SELECT is allowed
ALTER VIEW models RENAME TO x
