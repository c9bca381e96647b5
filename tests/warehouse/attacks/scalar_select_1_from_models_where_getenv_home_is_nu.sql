-- refused: it does more than compute
SELECT 1 FROM models WHERE getenv('HOME') IS NULL
