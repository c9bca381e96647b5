-- refused: table function \w+ is not allowed
SELECT (SELECT count(*) FROM READ_CSV_AUTO('/etc/passwd'))
