-- refused: files cannot be read, only tables and views
SELECT 1 ORDER BY (SELECT max(x) FROM 'x.csv')
