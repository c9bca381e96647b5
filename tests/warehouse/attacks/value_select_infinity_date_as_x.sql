-- answered
SELECT 'infinity'::DATE AS x
