-- wrong: SQL
SELECT $$a
