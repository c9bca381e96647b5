-- refused: table function \w+ is not allowed
WITH t AS (FROM duckdb_secrets()) FROM models
