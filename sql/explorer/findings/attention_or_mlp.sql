-- KL of dropping equally many attention and MLP sublayers, for the fewest and the most.
-- grain: one row per model.
-- inputs: variant_summary
with pairs as (
    select
        model,
        sublayers_dropped_count as dropped,
        max(kl_step0_nats) filter (where method = 'attn-drop') as kl_attn,
        max(kl_step0_nats) filter (where method = 'mlp-drop') as kl_mlp,
        max(parameters_removed_share) filter (where method = 'attn-drop') as share_attn,
        max(parameters_removed_share) filter (where method = 'mlp-drop') as share_mlp
    from variant_summary
    where method in ('attn-drop', 'mlp-drop') and kl_step0_nats is not null and sublayers_dropped_count > 0
    group by all
    having count(*) filter (where method = 'attn-drop') = 1 and count(*) filter (where method = 'mlp-drop') = 1
)

select
    model,
    count(*) as numbers,
    count(*) filter (where kl_attn < kl_mlp) as numbers_attention_milder,
    min(dropped) as fewest,
    arg_min(kl_attn, dropped) as fewest_kl_attn,
    arg_min(kl_mlp, dropped) as fewest_kl_mlp,
    arg_min(share_attn, dropped) as fewest_share_attn,
    arg_min(share_mlp, dropped) as fewest_share_mlp,
    max(dropped) as most,
    arg_max(kl_attn, dropped) as most_kl_attn,
    arg_max(kl_mlp, dropped) as most_kl_mlp,
    arg_max(share_attn, dropped) as most_share_attn,
    arg_max(share_mlp, dropped) as most_share_mlp
from pairs
group by all
order by model
