-- refused: files cannot be read, only tables and views
SELECT 1 LIMIT (SELECT max(x) FROM 'x.csv')
