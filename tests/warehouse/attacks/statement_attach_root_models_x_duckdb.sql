-- refused: only SELECT is allowed
ATTACH '{root}/models/x.duckdb'
