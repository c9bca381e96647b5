-- refused: shows the engine
FROM duckdb_settings
