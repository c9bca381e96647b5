-- refused: files cannot be read, only tables and views
FROM models JOIN 'x.csv' USING (model)
