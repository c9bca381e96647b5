-- answered
SELECT {'a': date '290000-01-01', 'b': 'nan'::FLOAT} AS x
