-- refused
FROM system.information_schema.tables
