-- refused: only SELECT is allowed
COPY (SELECT 1) TO '{root}/models/x.csv'
