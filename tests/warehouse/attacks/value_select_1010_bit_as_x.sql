-- answered
SELECT '1010'::BIT AS x
