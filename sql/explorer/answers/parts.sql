-- Layer from which on the most likely token differs at the first flip, over all texts.
-- grain: one row per model.
-- inputs: first_divergent_layer
select
    model,
    count(*) as texts,
    quantile_disc(from_layer, 0.1) as layer_p10,
    quantile_disc(from_layer, 0.5) as layer_p50,
    quantile_disc(from_layer, 0.9) as layer_p90
from first_divergent_layer
where from_layer is not null
group by all
order by model
