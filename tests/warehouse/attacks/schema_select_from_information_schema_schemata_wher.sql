-- empty
SELECT * FROM information_schema.schemata WHERE schema_name = 'files'
