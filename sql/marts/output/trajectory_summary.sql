-- Does the KL on a trajectory order the variants as their answers do?
-- grain: one row per model × trajectory × kind of answers.
-- key: model, trajectory, answers
-- inputs: steps_after_flip, lost_answers, pruned_variants
-- how to read: each variant has the median KL of q13, and the share of the dense model's answers to prompts that it
--   loses (lost_answers); gained ones do not count. rank_correlation is Spearman's over the variants: 1 if the more
--   distant variant always loses more answers, below 0 if it tends to lose fewer. Its interval (Bonett and Wright)
--   takes variants as independent; NULL below 5 of them. The order on `fork` is the null, because the dense model alone
--   is measured there; variants without stored forks are excluded.
-- reason: a distance that orders variants differently from their answers must not rank them.
-- columns:
--   answers: right, for right answers beyond a guess; same, for the dense model's answers [label]
--   n_answers: The dense model's answers that a variant can lose [answers]
--   n_variants: Pruned variants with both numbers [variants]
--   kl_median_nats: Median over variants of their median KL after the first flip [nats]
--   rank_correlation: Spearman's correlation of KL and answers lost; NULL if one of them does not vary [correlation]
--   rank_correlation_low: Lower end of its 95 % interval [correlation]
with variants as (
    select
        steps.model, steps.recipe, steps.trajectory,
        if(any_value(answers.measure) = 'agreement', 'same', 'right') as answers,
        median(steps.kl_nats) as kl_nats,
        any_value(answers.n_right_dense) as n_answers,
        any_value(answers.n_lost / answers.n_right_dense) as lost
    from steps_after_flip as steps
    inner join pruned_variants using (model, recipe)
    inner join lost_answers as answers using (model, recipe)
    where answers.text_source = '(prompts)' and answers.n_right_dense > 0
    group by steps.model, steps.recipe, steps.trajectory, answers.measure
),

ranked as (
    select
        *,
        midrank(kl_nats, row(model, trajectory, answers)) as kl_rank,
        midrank(lost, row(model, trajectory, answers)) as lost_rank
    from variants
),

correlations as (
    select
        model, trajectory, answers,
        max(n_answers) as n_answers,
        count(*) as n_variants,
        median(kl_nats) as kl_median_nats,
        case
            when count(*) >= 3 and min(kl_rank) < max(kl_rank) and min(lost_rank) < max(lost_rank)
                then corr(kl_rank, lost_rank)
        end as rank_correlation
    from ranked
    group by all
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
    model, trajectory, answers, n_answers, n_variants, kl_median_nats, rank_correlation,
    ends[1] as rank_correlation_low,
    ends[2] as rank_correlation_high
from bounded
order by model, trajectory, answers
