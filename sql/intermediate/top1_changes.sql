-- The share of teacher-forced steps at which each variant changes the most likely token, with its interval.
-- grain: one row per model × recipe without noise variants.
-- key: model, recipe
-- inputs: decoding_at_reference
-- how to read: Wilson's interval with an effective number of steps, because the steps of a prompt are not independent.
-- reason: single definition of this interval, for variant_damage and variant_scores.
-- columns:
--   top1_change: Share of steps at which the most likely token changes [share]
--   top1_change_low: Lower end of its 95 % interval, Wilson's clustered by prompt [share]
with prompts as (
    select
        model, recipe, prompt_id,
        count(*) as tokens,
        count_if(not is_top1_same) as changed
    from decoding_at_reference
    where trajectory = 'teacher_forced'
    group by all
),

totals as (
    select
        model, recipe,
        sum(changed) / sum(tokens) as top1_change,
        wilson_interval_over_clusters(changed, tokens) as ends
    from prompts
    group by all
)

select
    model, recipe, top1_change,
    ends[1] as top1_change_low,
    ends[2] as top1_change_high
from totals
