-- refused: files cannot be read, only tables and views
FROM 'https://example.org/x.csv'
