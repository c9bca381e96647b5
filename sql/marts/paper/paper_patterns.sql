-- What 50 %, 4:8 and 2:4 sparsity cost, for each method.
-- grain: one row per model × sparsity × what was measured × method.
-- key: model, sparsity_percent, measured_on, measure, method
-- inputs: sparsity_patterns, paper_variants, paper_texts
-- columns:
--   measured_on: `prompts` (teacher forced), or the name of a text
--   measure: `KL, nats`, the mean KL(dense‖pruned), or `perplexity`
--   dense: the dense model's value
--   unstructured: value of the unstructured variant
--   unstructured_se: its standard error, over prompts or windows
--   pattern_4of8: value of the variant that keeps four of eight
--   pattern_4of8_se: its standard error, over prompts or windows
--   pattern_2of4: value of the variant that keeps two of four
--   pattern_2of4_se: its standard error, over prompts or windows
-- how to read: if several variants have the same method, sparsity and pattern, the lowest value counts. A pattern that
--   was not run is NULL; other patterns are not shown.
-- reason: the usual table for comparing pruning methods since SparseGPT.
with measured as (
    select
        model, recipe,
        'prompts' as measured_on,
        'KL, nats' as measure,
        kl_teacher_forced_mean_nats as outcome,
        kl_teacher_forced_mean_nats_se as outcome_se
    from paper_variants

    union all

    select
        model, recipe,
        text_id as measured_on,
        unnest(['KL, nats', 'perplexity']) as measure,
        unnest([kl_mean_nats, ppl_pruned]) as outcome,
        unnest([kl_mean_nats_se, ppl_pruned_se]) as outcome_se
    from paper_texts
),

-- The lowest value of each pattern, with the error that belongs to it.
lowest as (
    select
        masked.model, masked.method, masked.sparsity_percent, masked.pattern, measured.measured_on, measured.measure,
        arg_min(row(measured.outcome, measured.outcome_se), row(measured.outcome, masked.recipe)) as best
    from sparsity_patterns as masked
    inner join measured using (model, recipe)
    where measured.outcome is not null
    group by all
),

patterns as (
    select
        model, method, sparsity_percent, measured_on, measure,
        any_value(best) filter (where pattern = 'unstructured') as unstructured,
        any_value(best) filter (where pattern = '4:8') as pattern_4of8,
        any_value(best) filter (where pattern = '2:4') as pattern_2of4
    from lowest
    group by all
)

select
    patterns.model, patterns.sparsity_percent, patterns.measured_on, patterns.measure, patterns.method,
    dense.outcome as dense,
    patterns.unstructured[1] as unstructured,
    patterns.unstructured[2] as unstructured_se,
    patterns.pattern_4of8[1] as pattern_4of8,
    patterns.pattern_4of8[2] as pattern_4of8_se,
    patterns.pattern_2of4[1] as pattern_2of4,
    patterns.pattern_2of4[2] as pattern_2of4_se
from patterns
left join measured as dense
    on
        patterns.model = dense.model and dense.recipe = 'dense' and patterns.measured_on = dense.measured_on
        and patterns.measure = dense.measure
where coalesce(patterns.unstructured, patterns.pattern_4of8, patterns.pattern_2of4) is not null
order by
    patterns.model, patterns.sparsity_percent, patterns.measured_on, patterns.measure, patterns.method
