-- Lens of the layers.
-- grain: one row.
-- inputs: stg_layer_transitions
select preferred_lens(lens) as lens from stg_layer_transitions
