-- Does the KL at the output equal the sum of what each pruned sublayer causes alone?
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: transitions_at_reference, stg_models, sublayer_kl_attribution
-- how to read: at every position the isolated KLs of all changed sublayers are added up and compared with the joint KL,
--   all at the output. sum_over_joint is the median of that ratio: 1 says that the effects add up, below 1 that they
--   amplify each other, above 1 that they overlap or partly cancel. spearman_local_isolated is the rank correlation
--   over sublayers of what Theorem 3 predicts locally and of their isolated effect: near 1, the cheap local probe finds
--   the sublayers that matter (NULL below 10 sublayers). The worst sublayer is the one with the largest median isolated
--   KL; sublayer_kl_attribution has all of them. This needs scopes isolated and propagated with lens normed; everything
--   is at the reference temperature.
-- reason: if effects add up, sublayers can be chosen one by one; if not, a variant must be measured whole.
-- columns:
--   n: Positions [positions]
--   n_sublayers: Sublayers that the recipe changed [sublayers]
--   kl_sum_median_nats: Median over positions of the isolated KLs of all sublayers, added up [nats]
--   kl_joint_median_nats: Median KL(dense‖pruned) of the whole variant at the output [nats]
--   sum_over_joint: Median of the sum over the joint KL; 1 if damages add up [ratio] = Σ isolated/joint
--   sum_over_joint_p10: 10th percentile of the sum over the joint KL [ratio]
--   spearman_local_isolated: Rank correlation of t3_local_nats and kl_isolated_nats; NULL below 10 sublayers [-1 to 1]
--   worst_layer: Layer of the sublayer with the largest median isolated KL
--   worst_sublayer: That sublayer
--   worst_isolated_share: Its part of the joint KL [ratio] = kl_isolated_nats/kl_joint_nats
with at_output as (
    select
        transitions.model, transitions.recipe, transitions.prompt_id, transitions.position,
        sum(cast(transitions.kl_dense_pruned_nats as double)) filter (
            where transitions.scope = 'isolated' and transitions.is_changed
        ) as kl_sum_nats,
        max(transitions.kl_dense_pruned_nats) filter (
            where
            transitions.scope = 'propagated' and transitions.sublayer = 'mlp' and transitions.layer = models.layers - 1
        ) as kl_joint_nats
    from transitions_at_reference as transitions
    inner join stg_models as models using (model)
    where transitions.lens = 'normed' and transitions.scope in ('isolated', 'propagated')
    group by all
),

sums as (
    select
        model, recipe,
        count(*) as n,
        median(kl_sum_nats) as kl_sum_median_nats,
        median(kl_joint_nats) as kl_joint_median_nats,
        quantile_cont(kl_sum_nats / nullif(kl_joint_nats, 0), [0.1, 0.5, 0.9]) as sum_over_joint
    from at_output
    where kl_sum_nats is not null
    group by all
),

ranked as (
    select
        model, recipe, layer, sublayer, kl_isolated_nats, isolated_share,
        midrank(t3_local_nats, row(model, recipe)) as rank_local,
        midrank(kl_isolated_nats, row(model, recipe)) as rank_isolated
    from sublayer_kl_attribution
    where t3_local_nats is not null
),

sublayers as (
    select
        model, recipe,
        count(*) as n_sublayers,
        correlation(rank_local, rank_isolated) as spearman_local_isolated,
        arg_max(row(layer, sublayer, isolated_share), row(kl_isolated_nats, -layer, sublayer)) as worst
    from ranked
    group by all
)

select
    sums.model, sums.recipe, sums.n, sublayers.n_sublayers, sums.kl_sum_median_nats, sums.kl_joint_median_nats,
    sums.sum_over_joint[2] as sum_over_joint,
    sums.sum_over_joint[1] as sum_over_joint_p10,
    sums.sum_over_joint[3] as sum_over_joint_p90,
    sublayers.spearman_local_isolated,
    sublayers.worst[1] as worst_layer,
    sublayers.worst[2] as worst_sublayer,
    sublayers.worst[3] as worst_isolated_share
from sums
left join sublayers using (model, recipe)
order by sums.model, sums.recipe
