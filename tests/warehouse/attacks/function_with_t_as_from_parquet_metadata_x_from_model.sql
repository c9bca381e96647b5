-- refused: table function \w+ is not allowed
WITH t AS (FROM parquet_metadata('x')) FROM models
