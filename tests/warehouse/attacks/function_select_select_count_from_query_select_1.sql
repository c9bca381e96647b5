-- refused: table function \w+ is not allowed
SELECT (SELECT count(*) FROM query('SELECT 1'))
