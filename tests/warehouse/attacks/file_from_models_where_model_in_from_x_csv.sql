-- refused: files cannot be read, only tables and views
FROM models WHERE model IN (FROM 'x.csv')
