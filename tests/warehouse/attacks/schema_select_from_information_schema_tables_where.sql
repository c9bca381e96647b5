-- empty
SELECT * FROM information_schema.tables WHERE table_schema = 'files'
