-- How much less do tasks that choose among options lose than tasks that write text?
-- grain: one row per model × recipe × measure.
-- key: model, recipe, measure
-- inputs: task_group_scores, stg_variants
-- how to read: the loss of a task is the share of its dense score that is gone, 1 − score / dense score, negative where
--   the score rose; the metrics of a task are averaged first, then the tasks, a group such as MMLU as one. loss_gap is
--   non-generative minus generative: below 0 generation suffers more, as the paper claims. Its interval adds the errors
--   of all scores as independent ones; scores of one model on the same samples correlate, so that it is rather too
--   wide. NULL where one kind of task, or an error, is missing. measure score uses every metric but agreement, measure
--   agreement only that one: the share of the dense model's own answers that are unchanged, right or wrong, which a
--   model too weak for a task can lose too. Where options are given, guessing keeps a part of either, so that their
--   loss stays below 1; paper_claims corrects for that. Perplexities and dense scores of 0 are excluded, and so are the
--   dense recipe and noise variants.
-- reason: the paper's headline as one number per variant, comparable between methods.
-- columns:
--   measure: score, by right answers, or agreement, by the dense model's own ones
--   n_non_generative: Tasks answered by the likelihood of options [tasks]
--   n_generative: Tasks answered by writing [tasks]
--   loss_non_generative: Mean loss of the former [share]
--   loss_generative: Mean loss of the latter [share]
--   kept_non_generative: Geometric mean of what the former keep of their dense score [share]
--   kept_generative: Geometric mean of what the latter keep [share]
--   loss_gap: Non-generative minus generative loss [share] = loss_non_generative − loss_generative
--   loss_gap_low: Lower end of its 95 % interval [share]
--   loss_gap_high: Upper end of its 95 % interval [share]
with

metrics as (
    select
        pruned.model,
        pruned.recipe,
        case when pruned.metric = 'agreement' then 'agreement' else 'score' end as measure,
        pruned.task_group,
        pruned.kind,
        pruned.score / dense.score as kept,
        -- First order in both errors.
        sqrt((pruned.score_se / dense.score) ** 2 + (pruned.score * dense.score_se / dense.score ** 2) ** 2)
            as kept_se
    from task_group_scores as pruned
    inner join task_group_scores as dense
        on
            pruned.model = dense.model
            and pruned.task_group = dense.task_group
            and pruned.kind = dense.kind
            and pruned.metric = dense.metric
            and dense.recipe = 'dense'
    where pruned.recipe <> 'dense' and pruned.is_higher_better and pruned.kind <> 'perplexity' and dense.score > 0
),

tasks as (
    select
        model,
        recipe,
        measure,
        task_group,
        kind,
        avg(kept) as kept,
        -- Metrics of one task are of the same samples, so that their errors are averaged.
        case when count(kept_se) = count(*) then avg(kept_se) end as kept_se
    from metrics
    group by model, recipe, measure, task_group, kind
),

kinds as (
    select
        model,
        recipe,
        measure,
        kind,
        count(*) as n,
        1 - avg(kept) as loss,
        geometric_mean_of(kept) as kept,
        case when count(kept_se) = count(*) then sum(kept_se ** 2) / count(*) ** 2 end as variance
    from tasks
    group by model, recipe, measure, kind
),

variants as (
    select
        model,
        recipe,
        measure,
        coalesce(max(n) filter (where kind = 'non_generative'), 0) as n_non_generative,
        coalesce(max(n) filter (where kind = 'generative'), 0) as n_generative,
        max(loss) filter (where kind = 'non_generative') as loss_non_generative,
        max(loss) filter (where kind = 'generative') as loss_generative,
        max(kept) filter (where kind = 'non_generative') as kept_non_generative,
        max(kept) filter (where kind = 'generative') as kept_generative,
        sqrt(
            max(variance) filter (where kind = 'non_generative') + max(variance) filter (where kind = 'generative')
        ) as gap_se
    from kinds
    group by model, recipe, measure
)

select
    variants.model,
    variants.recipe,
    variants.measure,
    stg_variants.method,
    variants.n_non_generative,
    variants.n_generative,
    variants.loss_non_generative,
    variants.loss_generative,
    variants.kept_non_generative,
    variants.kept_generative,
    variants.loss_non_generative - variants.loss_generative as loss_gap,
    variants.loss_non_generative - variants.loss_generative - 1.959963984540054 * variants.gap_se as loss_gap_low,
    variants.loss_non_generative - variants.loss_generative + 1.959963984540054 * variants.gap_se as loss_gap_high
from variants
inner join stg_variants
    on variants.model = stg_variants.model and variants.recipe = stg_variants.recipe
where not stg_variants.is_noise
order by variants.model, variants.measure <> 'score', stg_variants.method, variants.recipe
