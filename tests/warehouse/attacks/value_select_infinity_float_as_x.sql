-- answered
SELECT 'infinity'::FLOAT AS x
