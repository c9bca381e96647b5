-- answered
SELECT 'nan'::DOUBLE AS x
