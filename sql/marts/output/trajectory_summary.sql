-- Does the KL on a trajectory order the variants as their answers do?
-- grain: one row per model × trajectory.
-- key: model, trajectory
-- inputs: steps_after_flip, stg_generations, pruned_variants
-- how to read: each variant has the median KL of q13, and the share of answers that it loses: of the graded prompts
--   those without the right answer; where the dense model answers none right, of its answers those that the variant
--   does not repeat. rank_correlation is Spearman's over the variants: 1 where the further variant always loses more
--   answers, below 0 where the order is the other way round. Its interval (Bonett and Wright) takes variants as
--   independent; NULL below 5 of them. The order on `fork` is the null, because the dense model alone is measured
--   there.
-- reason: a distance that orders variants against their answers must not rank them.
-- columns:
--   answers: right or same: what the answers are compared with [label]
--   n_variants: Pruned variants with both numbers [variants]
--   kl_median_nats: Median over variants of their median KL behind the first flip [nats]
--   rank_correlation: Spearman's correlation of KL and answers lost; NULL where one of them does not vary [correlation]
--   rank_correlation_low: Lower end of its 95 % interval [correlation]
--   rank_correlation_high: Upper end of it [correlation]
with

answers as (
    select
        texts.model,
        texts.recipe,
        avg(cast(not texts.is_correct as integer)) as wrong_share,
        avg(cast(texts.answer is distinct from dense.answer as integer)) filter (
            where dense.answer is not null
        ) as other_share,
        count_if(dense.is_correct) > 0 as is_graded
    from stg_generations as texts
    inner join pruned_variants using (model, recipe)
    inner join stg_generations as dense
        on texts.model = dense.model and texts.prompt_id = dense.prompt_id and dense.recipe = 'dense'
    group by texts.model, texts.recipe
),

variants as (
    select
        steps.model,
        steps.recipe,
        steps.trajectory,
        median(steps.kl_nats) as kl_nats,
        bool_or(answers.is_graded) as is_graded,
        any_value(if(answers.is_graded, answers.wrong_share, answers.other_share)) as lost
    from steps_after_flip as steps
    inner join answers using (model, recipe)
    group by steps.model, steps.recipe, steps.trajectory
),

ranked as (
    select
        *,
        midrank(kl_nats, row(model, trajectory)) as kl_rank,
        midrank(lost, row(model, trajectory)) as lost_rank
    from variants
    where lost is not null
),

correlations as (
    select
        model,
        trajectory,
        if(bool_or(is_graded), 'right', 'same') as answers,
        count(*) as n_variants,
        median(kl_nats) as kl_median_nats,
        case
            when count(*) >= 3 and min(kl_rank) < max(kl_rank) and min(lost_rank) < max(lost_rank)
                then corr(kl_rank, lost_rank)
        end as rank_correlation
    from ranked
    group by model, trajectory
),

bounded as (
    select
        *,
        interval_of_correlation(
            rank_correlation, half_width_of_rank_correlation(rank_correlation, n_variants)
        ) as ends
    from correlations
)

select
    model,
    trajectory,
    answers,
    n_variants,
    kl_median_nats,
    rank_correlation,
    ends[1] as rank_correlation_low,
    ends[2] as rank_correlation_high
from bounded
order by model, trajectory
