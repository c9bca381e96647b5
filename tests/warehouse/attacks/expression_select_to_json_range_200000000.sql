-- stopped
SELECT to_json(range(200000000))
