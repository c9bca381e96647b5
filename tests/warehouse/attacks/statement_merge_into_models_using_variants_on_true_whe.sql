-- refused: only SELECT is allowed
MERGE INTO models USING variants ON true WHEN MATCHED THEN DELETE
