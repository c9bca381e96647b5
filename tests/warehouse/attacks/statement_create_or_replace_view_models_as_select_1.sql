-- refused: only SELECT is allowed
CREATE OR REPLACE VIEW models AS SELECT 1
