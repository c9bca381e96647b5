-- refused: files cannot be read, only tables and views
SELECT list_transform([1], lambda x: (SELECT count(*) FROM 'x.csv'))
