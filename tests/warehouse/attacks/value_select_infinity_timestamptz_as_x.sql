-- answered
SELECT 'infinity'::TIMESTAMPTZ AS x
