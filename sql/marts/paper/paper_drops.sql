-- How fidelity and scores fall with the number of dropped sublayers or blocks.
-- grain: one row per model × drop variant, the dense model first.
-- key: model, recipe
-- inputs: paper_variants, score_means
-- columns:
--   dropped: attention or MLP sublayers, or whole blocks, that are dropped
--   non_generative_score: mean score over the tasks answered by likelihood [share]
--   non_generative_score_se: its standard error over samples [share]
--   non_generative_score_low: lower end of its 95 % interval, as in score_means [share]
--   non_generative_score_high: upper end of it [share]
--   generative_score: mean score over the tasks answered by writing [share]
--   generative_score_se: its standard error over samples [share]
--   generative_score_low: lower end of its 95 % interval, as in score_means [share]
--   generative_score_high: upper end of it [share]
-- how to read: scores are those of score_means. NULL if no such task was scored, or a task has no error.
-- reason: the curves of score and divergence against the number of drops, as a table.
select
    variants.model, variants.recipe, variants.method,
    cast(
        -- A block is two sublayers.
        variants.sublayers_dropped_count / case when variants.method = 'block-drop' then 2 else 1 end as integer
    ) as dropped,
    variants.parameters_removed_share, variants.prompts, variants.kl_teacher_forced_mean_nats,
    variants.kl_teacher_forced_mean_nats_se, variants.kl_own_text_mean_nats, variants.kl_own_text_mean_nats_se,
    variants.top1_agreement, variants.top1_agreement_se,
    fixed.score as non_generative_score,
    fixed.score_se as non_generative_score_se,
    fixed.score_low as non_generative_score_low,
    fixed.score_high as non_generative_score_high,
    written.score as generative_score,
    written.score_se as generative_score_se,
    written.score_low as generative_score_low,
    written.score_high as generative_score_high
from paper_variants as variants
left join score_means as fixed
    on variants.model = fixed.model and variants.recipe = fixed.recipe and fixed.measure = 'non_generative'
left join score_means as written
    on variants.model = written.model and variants.recipe = written.recipe and written.measure = 'generative'
where variants.method in ('dense', 'attn-drop', 'mlp-drop', 'attn+mlp-drop', 'block-drop')
order by variants.model, variants.method <> 'dense', variants.method, dropped, variants.recipe
