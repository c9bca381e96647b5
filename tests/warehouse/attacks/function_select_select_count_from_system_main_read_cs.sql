-- refused: table function \w+ is not allowed
SELECT (SELECT count(*) FROM system.main.read_csv('/etc/passwd'))
