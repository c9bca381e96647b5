-- refused: only SELECT is allowed
CALL read_csv('/etc/passwd')
