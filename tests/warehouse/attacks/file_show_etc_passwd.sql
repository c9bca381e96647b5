-- refused: files cannot be read, only tables and views
SHOW '/etc/passwd'
