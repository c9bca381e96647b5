-- refused: only one statement
SELECT 1 /* ; */; -- x
 SELECT 2
