-- refused: only the warehouse's own
FROM pg_catalog.pg_settings
