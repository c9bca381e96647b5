-- refused: files cannot be read, only tables and views
SELECT * FROM '/etc/passwd'
