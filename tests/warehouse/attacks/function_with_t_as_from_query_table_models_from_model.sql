-- refused: table function \w+ is not allowed
WITH t AS (FROM query_table('models')) FROM models
