-- refused: files cannot be read, only tables and views
SELECT (SELECT count(*) FROM 'x.csv')
