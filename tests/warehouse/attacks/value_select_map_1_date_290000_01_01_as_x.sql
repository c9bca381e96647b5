-- answered
SELECT map {1: date '290000-01-01'} AS x
