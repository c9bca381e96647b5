-- columns:
--   sublayers_dropped_count: Dropped sublayers [sublayers] = len(sublayers_dropped)
--   is_noise: Whether nothing is pruned and the dense model is only computed in another way = method = 'noise'
select
    cast(len(sublayers_dropped) as integer) as sublayers_dropped_count,
    method = 'noise' as is_noise
from variants
