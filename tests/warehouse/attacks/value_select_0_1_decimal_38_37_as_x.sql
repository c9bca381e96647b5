-- answered
SELECT 0.1::DECIMAL(38, 37) AS x
