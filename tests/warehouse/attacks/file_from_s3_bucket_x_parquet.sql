-- refused: files cannot be read, only tables and views
FROM 's3://bucket/x.parquet'
