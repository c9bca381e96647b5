-- empty
SELECT * FROM duckdb_views() WHERE schema_name = 'files'
