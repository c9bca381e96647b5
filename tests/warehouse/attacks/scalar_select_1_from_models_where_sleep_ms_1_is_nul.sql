-- refused: it does more than compute
SELECT 1 FROM models WHERE sleep_ms(1) IS NULL
