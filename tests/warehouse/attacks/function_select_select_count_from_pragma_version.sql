-- refused: table function \w+ is not allowed
SELECT (SELECT count(*) FROM pragma_version())
