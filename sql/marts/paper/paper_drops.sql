-- How fidelity and scores fall with the number of dropped sublayers or blocks.
-- grain: one row per model × drop variant, the dense model first.
-- key: model, recipe
-- inputs: paper_variants, score_means
-- columns:
--   dropped: attention or MLP sublayers, or whole blocks, that are dropped
--   non_generative_score: mean score over the tasks answered by likelihood [share]
--   non_generative_score_se: its standard error over samples [share]
--   non_generative_score_low: Lower end of its 95 % interval, as in score_means [share]
--   generative_score: mean score over the tasks answered by writing [share]
--   generative_score_se: its standard error over samples [share]
--   generative_score_low: Lower end of its 95 % interval, as in score_means [share]
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
    choosing.score as non_generative_score,
    choosing.score_se as non_generative_score_se,
    choosing.score_low as non_generative_score_low,
    choosing.score_high as non_generative_score_high,
    writing.score as generative_score,
    writing.score_se as generative_score_se,
    writing.score_low as generative_score_low,
    writing.score_high as generative_score_high
from paper_variants as variants
left join score_means as choosing
    on variants.model = choosing.model and variants.recipe = choosing.recipe and choosing.measure = 'non_generative'
left join score_means as writing
    on variants.model = writing.model and variants.recipe = writing.recipe and writing.measure = 'generative'
where variants.method in ('dense', 'attn-drop', 'mlp-drop', 'attn+mlp-drop', 'block-drop')
order by variants.model, variants.method <> 'dense', variants.method, dropped, variants.recipe
