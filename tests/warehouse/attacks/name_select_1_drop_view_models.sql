-- refused: only
SELECT 1; DROP VIEW models
