-- How fidelity and scores fall with the number of dropped sublayers or blocks.
-- grain: one row per model × drop variant, the dense model first.
-- key: model, recipe
-- inputs: paper_variants, stg_task_scores
-- columns:
--   dropped: attention or MLP sublayers, or whole blocks, that are gone
--   non_generative_score: mean score over the tasks answered by likelihood [share]
--   non_generative_score_se: its standard error over samples [share]
--   generative_score: mean score over the tasks answered by writing [share]
--   generative_score_se: its standard error over samples [share]
-- how to read: scores are means over tasks, each task's the mean of its metrics; their errors take tasks as
--   independent and metrics of one task as moving together. Agreement with the dense model's own answers is no score.
--   NULL where no such task was scored, or a task has no error.
-- reason: the curves of score and divergence against what was dropped, as a table.
with

tasks as (
    select
        model,
        recipe,
        kind,
        task,
        avg(value) as score,
        case when count(standard_error) = count(*) then avg(standard_error) end as error
    from stg_task_scores
    where kind in ('non_generative', 'generative') and metric <> 'agreement'
    group by model, recipe, kind, task
),

scores as (
    select
        model,
        recipe,
        kind,
        avg(score) as score,
        case when count(error) = count(*) then sqrt(sum(error ** 2)) / count(*) end as error
    from tasks
    group by model, recipe, kind
)

select
    variants.model,
    variants.recipe,
    variants.method,
    cast(
        -- A block is two sublayers.
        variants.sublayers_dropped_count / case when variants.method = 'block-drop' then 2 else 1 end as integer
    ) as dropped,
    variants.parameters_removed_share,
    variants.prompts,
    variants.kl_teacher_forced_mean_nats,
    variants.kl_teacher_forced_mean_nats_se,
    variants.kl_free_running_mean_nats,
    variants.kl_free_running_mean_nats_se,
    variants.top1_agreement,
    variants.top1_agreement_se,
    fixed.score as non_generative_score,
    fixed.error as non_generative_score_se,
    written.score as generative_score,
    written.error as generative_score_se
from paper_variants as variants
left join scores as fixed
    on variants.model = fixed.model and variants.recipe = fixed.recipe and fixed.kind = 'non_generative'
left join scores as written
    on variants.model = written.model and variants.recipe = written.recipe and written.kind = 'generative'
where variants.method in ('dense', 'attn-drop', 'mlp-drop', 'attn+mlp-drop', 'block-drop')
order by variants.model, variants.method <> 'dense', variants.method, dropped, variants.recipe
