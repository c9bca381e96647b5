-- refused: table function \w+ is not allowed
WITH t AS (FROM no_such_function()) FROM models
