-- refused: table function \w+ is not allowed
FROM which_secret('x', 's3')
