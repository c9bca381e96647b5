-- refused: table function \w+ is not allowed
WITH t AS (FROM sniff_csv('/etc/passwd')) FROM models
