-- empty
SELECT * FROM duckdb_tables() WHERE schema_name = 'files'
