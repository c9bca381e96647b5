-- refused: files cannot be read, only tables and views
VALUES ((SELECT count(*) FROM 'x.csv'))
