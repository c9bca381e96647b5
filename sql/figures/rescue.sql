-- The KL that disappears if one sublayer is dense again, and the KL that this sublayer causes alone.
-- grain: one row per variant × layer × sublayer.
-- inputs: q43_rescue
select
    model, recipe, layer, sublayer, rescue_rank, n_prompts, kl_joint_nats, rescued_nats, rescued_low, rescued_high,
    rescued_share, kl_isolated_nats, tokens_back
from q43_rescue
order by model, recipe, layer, sublayer
