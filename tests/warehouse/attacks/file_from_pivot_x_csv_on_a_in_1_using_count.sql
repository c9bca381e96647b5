-- refused: files cannot be read, only tables and views
FROM (PIVOT 'x.csv' ON a IN (1) USING count(*))
