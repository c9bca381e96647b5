-- refused: files cannot be read, only tables and views
DESCRIBE 'x.parquet'
