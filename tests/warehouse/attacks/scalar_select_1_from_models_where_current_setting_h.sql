-- refused: it does more than compute
SELECT 1 FROM models WHERE current_setting('home_directory') IS NULL
