-- For every two variants of a model, the number of answers that are right in one and wrong in the other.
-- grain: one row per model × recipe × other recipe × metric, every pair in both orders, dense included.
-- key: model, recipe, other_recipe, metric
-- inputs: task_answers, noise_variants
-- how to read: a pair of answers is to the same request of the same task, as the metric reads it, and graded on both
--   sides; all tasks of a metric are counted together, each sample once. lost are right in recipe and wrong in
--   other_recipe, gained the reverse; the row of the other order has them exchanged. mcnemar_p is the probability of a
--   split between them at least as uneven if both variants were equally good, 1 if no answer differs. holm_p is
--   mcnemar_p after Holm's correction over all pairs of a model and metric, each counted once. Noise variants are
--   excluded.
-- reason: two variants of equal accuracy need not be right on the same questions, whatever the dense model says.
-- columns:
--   recipe: The first variant of the pair
--   other_recipe: The second variant of the pair
--   n_tasks: Tasks in which both answered [tasks]
--   n_samples: Samples with a right answer that both answered [samples]
--   n_right: Those that recipe answers right [samples]
--   other_n_right: Those that other_recipe answers right [samples]
--   lost: Right in recipe, wrong in other_recipe [samples]
--   gained: Wrong in recipe, right in other_recipe [samples]
--   lost_share: Share of the samples that are right in recipe and wrong in other_recipe [share] = lost/n_samples
--   mcnemar_p: Exact two-sided McNemar test of lost against gained [probability]
--   n_tests: Pairs of the model and metric that are tested together [pairs]
--   holm_p: mcnemar_p after Holm's correction over these [probability]
with graded as (
    select answers.*
    from task_answers as answers
    anti join noise_variants using (model, recipe)
    where answers.is_correct is not null
),

counted as (
    select
        one.model, one.recipe,
        other.recipe as other_recipe,
        one.metric,
        count(distinct one.task) as n_tasks,
        count(*) as n_samples,
        count(*) filter (where one.is_correct) as n_right,
        count(*) filter (where other.is_correct) as other_n_right,
        count(*) filter (where one.is_correct and not other.is_correct) as lost,
        count(*) filter (where other.is_correct and not one.is_correct) as gained
    from graded as one
    inner join graded as other using (model, task, metric, sample_id, sample_hash)
    where one.recipe < other.recipe
    group by all
),

tested as (
    select
        *,
        coalesce(mcnemar_exact(lost, gained), 1.0) as mcnemar_p,
        count(*) over (partition by model, metric) as n_tests
    from counted
),

ordered as (
    select
        *,
        row_number() over (partition by model, metric order by mcnemar_p, recipe, other_recipe) as place
    from tested
),

corrected as (
    select
        *,
        max(holm_step(mcnemar_p, place, n_tests)) over (partition by model, metric order by place) as holm_p
    from ordered
)

select
    model, recipe, other_recipe, metric, n_tasks, n_samples, n_right, other_n_right, lost, gained,
    lost / n_samples as lost_share,
    mcnemar_p, n_tests, holm_p
from corrected

union all

select
    model,
    other_recipe as recipe,
    recipe as other_recipe,
    metric, n_tasks, n_samples,
    other_n_right as n_right,
    n_right as other_n_right,
    gained as lost,
    lost as gained,
    gained / n_samples as lost_share,
    mcnemar_p, n_tests, holm_p
from corrected
order by model, metric, recipe, other_recipe
