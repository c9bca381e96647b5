-- refused: table function \w+ is not allowed
SELECT (SELECT count(*) FROM parquet_scan('x'))
