-- empty
SELECT * FROM DUCKDB_VIEWS() WHERE sql LIKE '%read_parquet%'
