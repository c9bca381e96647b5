-- columns:
--   sublayers_dropped_count: Dropped sublayers [sublayers] = len(sublayers_dropped)
--   units_dropped: Dropped sublayers, or blocks of two, as the method counts them [units]
--   is_repaired: Whether a repair follows the pruning; the name before the last `+` is that without it
--   is_noise: Whether nothing is pruned and the dense model is only computed in another way = method = 'noise'
select
    cast(len(sublayers_dropped) as integer) as sublayers_dropped_count,
    cast(len(sublayers_dropped) / if(method = 'block-drop', 2, 1) as integer) as units_dropped,
    coalesce(json_exists(try_cast(facts_json as json), '$.repair'), false) as is_repaired,
    method = 'noise' as is_noise
from variants
