-- Share of the KL by changed sublayer.
-- grain: one row per pruned variant × changed sublayer.
-- inputs: layer_kl_share
select model, recipe, layer, sublayer, scope, kl_alone_nats, share_of_kl, prompts_parted
from layer_kl_share
order by model, recipe, place_in_order
