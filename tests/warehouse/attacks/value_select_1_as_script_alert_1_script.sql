-- answered
SELECT 1 AS "<script>alert(1)</script>"
