-- refused: only the warehouse's own
FROM models.parquet
