-- answered
SELECT '-infinity'::TIMESTAMP AS x
