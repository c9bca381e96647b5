-- refused: only SELECT is allowed
COPY models FROM '/etc/passwd'
