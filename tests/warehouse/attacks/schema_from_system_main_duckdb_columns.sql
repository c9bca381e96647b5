-- refused
FROM "system".main.duckdb_columns()
