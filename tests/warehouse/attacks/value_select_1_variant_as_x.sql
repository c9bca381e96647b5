-- answered
SELECT 1::VARIANT AS x
