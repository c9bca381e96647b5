-- refused: table function \w+ is not allowed
WITH t AS (FROM enable_logging()) FROM models
