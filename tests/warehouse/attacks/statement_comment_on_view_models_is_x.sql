-- refused: only SELECT is allowed
COMMENT ON VIEW models IS 'x'
