-- Pruned texts that differ from the dense ones or fall into a loop.
-- grain: one row per model.
-- inputs: variant_summary
select
    model,
    sum(prompts)::bigint as texts,
    sum(prompts_flipped)::bigint as texts_flipped,
    sum(prompts_collapsed)::bigint as texts_collapsed,
    min(first_flip_step_median) as first_flip_step_min,
    max(first_flip_step_median) as first_flip_step_max
from variant_summary
where recipe <> 'dense'
group by all
order by model
