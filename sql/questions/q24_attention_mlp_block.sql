-- At equal parameters removed, does dropping attention, MLP or whole blocks hurt the output least?
-- grain: one row per drop variant × other kind of drop.
-- key: model, recipe, other_method
-- inputs: variant_summary
-- how to read: kl is the mean teacher-forced KL(dense‖pruned). kl_other_nats is the KL of the other kind at the same
--   share of parameters, interpolated linearly between its two nearest variants. The dense model (nothing removed, KL
--   0) is the first point of every line. kl_other_nats is NULL beyond the largest variant, because nothing is
--   extrapolated. kl_ratio is kl over kl_other: below 1 this kind of drop does less damage.
-- reason: an attention sublayer has far fewer parameters than an MLP, so equal counts are not a fair comparison.
-- columns:
--   other_method: The kind of drop that it is compared with
--   kl_nats: Mean teacher-forced KL(dense‖pruned) [nats]
--   kl_other_nats: KL of the other kind at the same share of parameters, interpolated; NULL beyond its largest variant
--     [nats]
--   kl_ratio: KL over that of the other kind; below 1 this kind does less damage [ratio] = kl_nats/kl_other_nats
with drops as (
    select
        model, recipe, method, parameters_removed_share,
        kl_teacher_forced_mean_nats as kl_nats
    from variant_summary
    where method in ('attn-drop', 'mlp-drop', 'attn+mlp-drop', 'block-drop') and kl_teacher_forced_mean_nats is not null
),

methods as (
    select distinct model, method
    from drops
),

lines as (
    select
        model, method, parameters_removed_share,
        avg(kl_nats) as kl_nats
    from drops
    group by all

    union all

    select
        model, method,
        0 as parameters_removed_share,
        0 as kl_nats
    from methods
),

pairs as (
    select
        drops.*,
        methods.method as other_method
    from drops
    inner join methods using (model)
    where drops.method <> methods.method
),

bracketed as (
    select
        pairs.*,
        lower_point.parameters_removed_share as share_below,
        lower_point.kl_nats as kl_below,
        upper_point.parameters_removed_share as share_above,
        upper_point.kl_nats as kl_above
    from pairs
    asof left join lines as lower_point
        on
            pairs.model = lower_point.model and pairs.other_method = lower_point.method
            and pairs.parameters_removed_share >= lower_point.parameters_removed_share
    asof left join lines as upper_point
        on
            pairs.model = upper_point.model and pairs.other_method = upper_point.method
            and pairs.parameters_removed_share <= upper_point.parameters_removed_share
)

select
    model, recipe, method, other_method, parameters_removed_share, kl_nats,
    case
        when share_above = share_below then kl_below
        else kl_below + (kl_above - kl_below) * (parameters_removed_share - share_below) / (share_above - share_below)
    end as kl_other_nats,
    kl_nats / nullif(kl_other_nats, 0) as kl_ratio
from bracketed
order by model, parameters_removed_share, recipe, other_method
