-- refused: files cannot be read, only tables and views
SUMMARIZE '/etc/passwd'
