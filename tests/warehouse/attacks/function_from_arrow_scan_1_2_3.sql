-- refused: table function \w+ is not allowed
FROM arrow_scan(1, 2, 3)
