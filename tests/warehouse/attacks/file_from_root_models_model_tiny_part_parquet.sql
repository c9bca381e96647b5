-- refused: files cannot be read, only tables and views
FROM '{root}/models/model=tiny/part.parquet'
