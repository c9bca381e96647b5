-- refused: only SELECT is allowed
COPY models TO '/tmp/x.parquet'
