-- How do the answers of two variants of one model differ, paired sample by sample?
-- grain: one row per pair of variants × task × statistic.
-- key: recipe_a, recipe_b, measured_on, statistic
-- inputs: task_answers, stg_task_samples
-- parameters: $1 the model; $2 the pairs, each as {a, b}: both recipes; $3 the recipes of all pairs; files of other
--   recipes stay closed. All are bound, never pasted
-- how to read: both answers of a pair are to the same request (task, metric, sample_id, sample_hash). A statistic with
--   the name of a metric of task_scores is the share of right answers, over the samples that are graded on both sides;
--   agreement is the share of the dense model's own answers. *_log_likelihood is that of the right option or, per byte,
--   of a text; *_margin is its distance from the best other option. difference is b − a; its error is that of the
--   paired differences. low and high are its 95 % interval, paired by sample and not corrected: for shares Newcombe's
--   for pairs, which includes 0 whenever mcnemar_p is 0.05 or more, for the others Student's t (NULL below two samples
--   and if none deviates). only_a_right and only_b_right count the samples that only one side answers right. mcnemar_p
--   is the probability of a split between them at least as uneven if both were equally good, 1 if there is none; holm_p
--   corrects it for all tests of the pair (tasks × metrics). clusters are samples.
-- reason: two variants of equal accuracy need not answer the same questions right. The query is one file because its
--   parameters must reach the scans of the files.
with requested as (
    select
        one.pair.a as recipe_a,
        one.pair.b as recipe_b
    from (select unnest($2) as pair) as one
),

answers as (
    select *
    from task_answers
    where model = $1 and list_contains($3, recipe)

    union all by name

    select
        recipe, task,
        'agreement' as metric,
        sample_id, sample_hash,
        is_answer_same as is_correct,
        1.0 as weight
    from stg_task_samples
    where model = $1 and list_contains($3, recipe) and scoring in ('full_text', 'greedy')
),

stacked as (
    select
        requested.recipe_a, requested.recipe_b, a.task, a.metric, a.sample_id, a.weight,
        unnest([
            {
                'statistic': a.metric,
                'place': 1,
                'a': cast(cast(a.is_correct as integer) as double),
                'b': cast(cast(b.is_correct as integer) as double)
            },
            {
                'statistic': a.metric || '_log_likelihood',
                'place': 2,
                'a': a.target_log_likelihood / a.weight,
                'b': b.target_log_likelihood / a.weight
            },
            { 'statistic': a.metric || '_margin', 'place': 3, 'a': a.target_margin, 'b': b.target_margin }
        ]) as one
    from requested
    inner join answers as a
        on requested.recipe_a = a.recipe
    inner join answers as b using (task, metric, sample_id, sample_hash)
    where requested.recipe_b = b.recipe
),

pairs as (
    select
        stacked.*,
        stacked.one.statistic,
        stacked.one.place,
        stacked.one.a,
        stacked.one.b
    from stacked
    where stacked.one.a is not null and stacked.one.b is not null
),

means as (
    select
        recipe_a, recipe_b, task, statistic,
        any_value(place) as place,
        count(*) as samples,
        sum(weight) as weight,
        sum(weight * a) / sum(weight) as a,
        sum(weight * b) / sum(weight) as b,
        count(*) filter (where a > b) as only_a_right,
        count(*) filter (where b > a) as only_b_right
    from pairs
    group by all
),

errors as (
    select
        means.recipe_a, means.recipe_b, means.task, means.statistic,
        error_over_clusters(pairs.weight * (pairs.a - means.a) / means.weight) as a_se,
        error_over_clusters(pairs.weight * (pairs.b - means.b) / means.weight) as b_se,
        error_over_clusters(pairs.weight * (pairs.b - means.b - pairs.a + means.a) / means.weight) as difference_se,
        half_width_over_clusters(pairs.weight * (pairs.b - means.b - pairs.a + means.a) / means.weight) as half_width
    from means
    inner join pairs using (recipe_a, recipe_b, task, statistic)
    group by all
),

tested as (
    select
        recipe_a, recipe_b, task, statistic,
        coalesce(mcnemar_exact(only_a_right, only_b_right), 1.0) as mcnemar_p
    from means
    where place = 1
),

ordered as (
    select
        *,
        count(*) over (partition by recipe_a, recipe_b) as n_tests,
        row_number() over (partition by recipe_a, recipe_b order by mcnemar_p, task, statistic) as place
    from tested
),

corrected as (
    select
        *,
        max(holm_step(mcnemar_p, place, n_tests)) over (partition by recipe_a, recipe_b order by place) as holm_p
    from ordered
)

select
    means.recipe_a, means.recipe_b,
    'task ' || means.task as measured_on,
    means.statistic, means.a, means.b,
    means.b - means.a as difference,
    case
        when means.place = 1 then interval_of_paired_change(means.only_a_right, means.only_b_right, means.samples)[1]
        else means.b - means.a - errors.half_width
    end as difference_low,
    case
        when means.place = 1 then interval_of_paired_change(means.only_a_right, means.only_b_right, means.samples)[2]
        else means.b - means.a + errors.half_width
    end as difference_high,
    errors.a_se, errors.b_se, errors.difference_se,
    means.samples as clusters,
    case when means.place = 1 then means.only_a_right end as only_a_right,
    case when means.place = 1 then means.only_b_right end as only_b_right,
    corrected.mcnemar_p, corrected.holm_p
from means
inner join errors using (recipe_a, recipe_b, task, statistic)
left join corrected using (recipe_a, recipe_b, task, statistic)
order by means.recipe_a, means.recipe_b, means.task, means.place, means.statistic
