-- refused: table function \w+ is not allowed
SELECT (SELECT count(*) FROM read_duckdb('x'))
