-- refused: table function \w+ is not allowed
FROM read_parquet('{root}/models/model=tiny/part.parquet')
