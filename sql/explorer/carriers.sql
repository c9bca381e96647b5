-- Share of the KL by changed sublayer.
-- grain: one row per pruned variant × changed sublayer.
-- inputs: layer_kl_share
select model, recipe, layer, sublayer, scope, share_of_kl, kl_alone_nats, prompts_parted
from layer_kl_share
order by model, recipe, place_in_order
