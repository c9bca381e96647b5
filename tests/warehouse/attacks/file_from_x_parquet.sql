-- refused: files cannot be read, only tables and views
FROM 'x.parquet'
