-- How much less do tasks that choose among options lose than tasks that write text?
-- grain: one row per model × recipe × measure.
-- key: model, recipe, measure
-- inputs: score_pairs, stg_variants
-- how to read: the loss of a task is the share of its dense score that is lost, 1 − score / dense score, negative if
--   the score rose; the metrics of a task are averaged first, then the tasks, a group such as MMLU as one. loss_gap is
--   non-generative minus generative: below 0 generation suffers more, as the paper claims. It is NULL if one kind of
--   task is missing. Its interval is paired by answer, from ratios of Wilson's intervals with tasks as independent (as
--   in task_losses), and not corrected for the number of variants. measure score uses every metric but agreement,
--   measure agreement only that one: the share of the dense model's answers, right or wrong, that are unchanged. A
--   model too weak for a task can lose these, too. If options are given, guessing keeps a part of either, so their loss
--   stays below 1; paper_claims corrects for that. Perplexities and dense scores of 0 are excluded, and so are the
--   dense recipe and noise variants.
-- reason: the paper's headline as one number per variant, comparable between methods.
-- columns:
--   measure: score, for right answers, or agreement, for the dense model's own answers
--   n_non_generative: Tasks answered by the likelihood of options [tasks]
--   n_generative: Tasks answered by writing [tasks]
--   loss_non_generative: Mean loss of the former [share]
--   loss_generative: Mean loss of the latter [share]
--   kept_non_generative: Geometric mean of what the former keep of their dense score [share]
--   kept_generative: Geometric mean of what the latter keep [share]
--   loss_gap: Non-generative minus generative loss [share] = loss_non_generative − loss_generative
--   loss_gap_low: Lower end of its 95 % interval, ratios of Wilson intervals, paired by answer [share]
with metrics as (
    select
        model, recipe, measure, task_group, kind,
        score / score_dense as kept,
        interval_of_ratio(
            score, score_low, score_high, score_dense, score_dense_low, score_dense_high,
            correlation_or_0(answers_covariance, answers_variance, answers_dense_variance)
        ) as ends
    from score_pairs
    where not is_noise and score_dense > 0
),

tasks as (
    select
        model, recipe, measure, task_group, kind,
        avg(kept) as kept,
        -- Metrics of one task are over the same samples, so their errors are averaged.
        avg(kept - ends[1]) as error_below,
        avg(ends[2] - kept) as error_above
    from metrics
    group by all
),

kinds as (
    select
        model, recipe, measure, kind,
        count(*) as n,
        avg(kept) as kept_mean,
        geometric_mean_of(kept) as kept,
        avg(kept) - sqrt(sum(error_below ** 2)) / count(*) as kept_low,
        avg(kept) + sqrt(sum(error_above ** 2)) / count(*) as kept_high
    from tasks
    group by all
),

variants as (
    select
        model, recipe, measure,
        coalesce(max(n) filter (where kind = 'non_generative'), 0) as n_non_generative,
        coalesce(max(n) filter (where kind = 'generative'), 0) as n_generative,
        1 - max(kept_mean) filter (where kind = 'non_generative') as loss_non_generative,
        1 - max(kept_mean) filter (where kind = 'generative') as loss_generative,
        max(kept) filter (where kind = 'non_generative') as kept_non_generative,
        max(kept) filter (where kind = 'generative') as kept_generative,
        -- The tasks differ, so their answers are independent.
        interval_of_difference(
            max(kept_mean) filter (where kind = 'generative'),
            max(kept_low) filter (where kind = 'generative'),
            max(kept_high) filter (where kind = 'generative'),
            max(kept_mean) filter (where kind = 'non_generative'),
            max(kept_low) filter (where kind = 'non_generative'),
            max(kept_high) filter (where kind = 'non_generative'),
            0
        ) as gap_ends
    from kinds
    group by all
)

select
    variants.model, variants.recipe, variants.measure, stg_variants.method, variants.n_non_generative,
    variants.n_generative, variants.loss_non_generative, variants.loss_generative, variants.kept_non_generative,
    variants.kept_generative,
    variants.loss_non_generative - variants.loss_generative as loss_gap,
    variants.gap_ends[1] as loss_gap_low,
    variants.gap_ends[2] as loss_gap_high
from variants
inner join stg_variants using (model, recipe)
order by variants.model, variants.measure <> 'score', stg_variants.method, variants.recipe
