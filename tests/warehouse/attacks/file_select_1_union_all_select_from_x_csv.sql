-- refused: files cannot be read, only tables and views
SELECT 1 UNION ALL (SELECT * FROM 'x.csv')
