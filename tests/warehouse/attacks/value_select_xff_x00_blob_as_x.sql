-- answered
SELECT '\xFF\x00'::BLOB AS x
