-- refused: files cannot be read, only tables and views
WITH a AS (FROM 'x.json') FROM a
