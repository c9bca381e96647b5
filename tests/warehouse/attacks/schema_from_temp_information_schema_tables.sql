-- refused
FROM temp.information_schema.tables
