-- refused: only SELECT is allowed
CREATE MACRO f() AS TABLE FROM read_csv('/etc/passwd')
