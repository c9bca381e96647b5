-- The lens through which the layers of each model are shown: normed if it was measured, else raw.
-- grain: one row per model with layers.
-- key: model
-- inputs: stg_layer_transitions
-- how to read: figures with a panel for each lens show both.
-- reason: the last layer of lens normed gives the model's output; some studies measure raw alone.
select
    model,
    -- 'normed' sorts before 'raw'.
    min(lens) as lens
from stg_layer_transitions
group by all
