-- refused: table function \w+ is not allowed
WITH t AS (FROM read_ndjson_objects('/etc/passwd')) FROM models
