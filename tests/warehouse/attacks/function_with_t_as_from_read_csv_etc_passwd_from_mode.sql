-- refused: table function \w+ is not allowed
WITH t AS (FROM "read_csv"('/etc/passwd')) FROM models
