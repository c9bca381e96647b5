-- refused: only SELECT is allowed
PRAGMA database_list
