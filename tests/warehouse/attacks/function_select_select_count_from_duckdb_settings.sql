-- refused: table function \w+ is not allowed
SELECT (SELECT count(*) FROM duckdb_settings())
