-- refused: table function \w+ is not allowed
FROM json_execute_serialized_sql('x')
