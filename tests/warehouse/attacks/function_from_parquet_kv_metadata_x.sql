-- refused: table function \w+ is not allowed
FROM parquet_kv_metadata('x')
