-- The part of the dense model's score above a guess that each variant loses, in choosing among options and in writing.
-- grain: one row per pruned variant × measure × kind of task.
-- key: model, recipe, measure, kind
-- inputs: metric_losses, graded_answers, stg_task_scores
-- how to read: the loss of a task is the lost part of what its dense score has above a guess. A guess (score_pairs)
--   scores the mean of 1/options, or the score of the best constant answer, such as yes in BoolQ; 0 for a written text
--   or a single option. A task is excluded if the 95 % interval of its dense score (Wilson's) is not wholly above a
--   guess, because nothing can be lost there. A group of tasks, such as MMLU, is one task (task_group_scores). The
--   metrics of a task are averaged first, then the tasks. measure score uses every metric but agreement, measure
--   agreement only that one, which takes the dense model's own answers as the right ones. A loss below 0 means that the
--   score rose, one above 1 that choosing is worse than a guess. noise_loss is the loss of the noise variant that loses
--   most in the same tasks: the dense model in bfloat16 or with another batch also changes answers, which is not an
--   effect of pruning. Intervals are at 95 %, paired by answer, of ratios and differences of Wilson's intervals (macros
--   interval_of_ratio and interval_of_difference). Errors of metrics of one task are taken as fully correlated, those
--   of tasks as independent. If answers are not stored, variants count as independent, which makes intervals rather too
--   wide. Intervals describe these tasks, not others, and are not corrected for the number of variants.
-- reason: makes losses of strong and weak models, and of tasks with two and with four options, comparable.
-- columns:
--   measure: score, for right answers, or agreement, for the dense model's own answers
--   n_tasks: Tasks that count, a group as one [tasks]
--   n_answers: Answers behind the loss, each paired with the dense model's answer to the same question [answers]
--   loss: Mean over tasks of what is lost [share]
--   loss_se: Standard error that a normal interval of the same width has; NULL if a score is not a share [share] =
--     (loss_high − loss_low)/(2 · 1.96)
--   loss_low: Lower end of its 95 % interval, ratio of Wilson intervals, paired by answer [share]
--   noise_loss: Loss of the largest noise variant in the same tasks; NULL if none was scored in all of them [share]
--   loss_beyond_noise: Loss minus that of the noise; the loss itself if no noise was scored [share] = loss − noise_loss
--   loss_beyond_noise_low: Lower end of its 95 % interval, with both errors, paired by answer [share]
with

-- A CTE that is read several times is computed once.
losses as (
    select * from metric_losses
),

totals as (
    select
        model, recipe, is_noise, measure, kind,
        list(row(task_group, metric) order by task_group, metric) as scored,
        avg(loss) as loss
    from losses
    group by all
),

floors as (
    select
        pruned.model, pruned.recipe, pruned.measure, pruned.kind,
        max_by(noise.recipe, row(noise.loss, noise.recipe)) as noise_recipe
    from totals as pruned
    inner join totals as noise using (model, measure, kind, scored)
    where noise.is_noise and not pruned.is_noise
    group by all
),

groups as (
    select distinct model, task, task_group
    from stg_task_scores
    where recipe = 'dense'
),

noise_pairs as (
    select distinct model, recipe, noise_recipe
    from floors
),

noise_answers as (
    select
        pruned.model, pruned.recipe,
        noise.recipe as noise_recipe,
        groups.task_group, pruned.metric,
        covariance_of_outcomes(
            count(*),
            count(*) filter (where pruned.is_right),
            count(*) filter (where noise.is_right),
            count(*) filter (where pruned.is_right and noise.is_right)
        ) as covariance
    from noise_pairs
    inner join graded_answers as pruned using (model, recipe)
    inner join graded_answers as noise using (model, task, metric, scoring, sample_id, sample_hash)
    inner join groups using (model, task)
    where noise_pairs.noise_recipe = noise.recipe
    group by all
),

with_noise as (
    select
        pruned.*,
        noise.loss as noise_loss,
        noise.loss_low as noise_loss_low,
        noise.loss_high as noise_loss_high,
        -- The correlation of one answer's contributions to both losses, (1 − loss)(dense right) − (right).
        correlation_or_0(
            noise_answers.covariance
            - (1 - noise.loss) * pruned.answers_covariance
            - (1 - pruned.loss) * noise.answers_covariance
            + (1 - pruned.loss) * (1 - noise.loss) * pruned.answers_dense_variance,
            pruned.answers_variance
            - 2 * (1 - pruned.loss) * pruned.answers_covariance
            + (1 - pruned.loss) ** 2 * pruned.answers_dense_variance,
            noise.answers_variance
            - 2 * (1 - noise.loss) * noise.answers_covariance
            + (1 - noise.loss) ** 2 * noise.answers_dense_variance
        ) as losses_correlation
    from losses as pruned
    left join floors using (model, recipe, measure, kind)
    left join losses as noise
        on
            floors.model = noise.model and floors.noise_recipe = noise.recipe and pruned.task_group = noise.task_group
            and pruned.kind = noise.kind and pruned.metric = noise.metric
    left join noise_answers
        on
            floors.model = noise_answers.model and floors.recipe = noise_answers.recipe
            and floors.noise_recipe = noise_answers.noise_recipe and pruned.task_group = noise_answers.task_group
            and pruned.metric = noise_answers.metric
    where not pruned.is_noise
),

beyond_noise as (
    select
        *,
        case
            when noise_loss is null then [loss_low, loss_high]
            else
                interval_of_difference(
                    loss, loss_low, loss_high, noise_loss, noise_loss_low, noise_loss_high, losses_correlation
                )
        end as beyond
    from with_noise
),

per_task as (
    select
        model, recipe, measure, kind, task_group,
        max(n_answers) as n_answers,
        avg(loss) as loss,
        avg(noise_loss) as noise_loss,
        avg(loss - coalesce(noise_loss, 0)) as beyond,
        -- Metrics of one task are over the same samples, so their errors are averaged.
        avg(loss - loss_low) as error_below,
        avg(loss_high - loss) as error_above,
        avg(loss - coalesce(noise_loss, 0) - beyond[1]) as beyond_below,
        avg(beyond[2] - loss + coalesce(noise_loss, 0)) as beyond_above
    from beyond_noise
    group by all
),

averaged as (
    select
        model, recipe, measure, kind,
        count(*) as n_tasks,
        cast(sum(n_answers) as bigint) as n_answers,
        avg(loss) as loss,
        avg(loss) - sqrt(sum(error_below ** 2)) / count(*) as loss_low,
        avg(loss) + sqrt(sum(error_above ** 2)) / count(*) as loss_high,
        avg(noise_loss) as noise_loss,
        avg(beyond) as loss_beyond_noise,
        avg(beyond) - sqrt(sum(beyond_below ** 2)) / count(*) as loss_beyond_noise_low,
        avg(beyond) + sqrt(sum(beyond_above ** 2)) / count(*) as loss_beyond_noise_high
    from per_task
    group by all
)

select
    model, recipe, measure, kind, n_tasks, n_answers, loss,
    (loss_high - loss_low) / (2 * 1.959963984540054) as loss_se,
    loss_low, loss_high, noise_loss, loss_beyond_noise, loss_beyond_noise_low, loss_beyond_noise_high
from averaged
