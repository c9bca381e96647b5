-- refused
FROM system.main.duckdb_views()
