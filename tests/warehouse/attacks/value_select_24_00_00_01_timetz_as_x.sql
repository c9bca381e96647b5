-- answered
SELECT '24:00:00+01'::TIMETZ AS x
