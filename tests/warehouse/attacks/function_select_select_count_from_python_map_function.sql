-- refused: table function \w+ is not allowed
SELECT (SELECT count(*) FROM python_map_function())
