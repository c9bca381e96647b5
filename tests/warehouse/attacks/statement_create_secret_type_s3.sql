-- refused: only SELECT is allowed
CREATE SECRET (TYPE s3)
