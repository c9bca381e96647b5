-- empty
SELECT * FROM duckdb_columns() WHERE schema_name = 'files'
