-- refused: files cannot be read, only tables and views
FROM '*.csv'
