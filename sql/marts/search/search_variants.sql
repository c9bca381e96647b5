-- The removed share and the KL on the study's own data, for mixed variants and all that they are compared with.
-- grain: one row per model × recipe × kind of data.
-- key: model, recipe, measured_on
-- inputs: search_candidates, search_units
-- how to read: mean KL(dense‖pruned) per token, teacher forced: on texts at T = 1, on prompts at the reference
--   temperature. The interval is Student's t over windows or prompts on a logarithmic scale; NULL below two of them or
--   if none deviates. The study that searched measures nothing that its search saw; another study may. search_judgement
--   has the paired differences.
-- reason: compares the front of a search with those of the published recipes.
-- columns:
--   measured_on: texts or prompts [label]
--   kl_mean_nats: Mean KL(dense‖pruned) over tokens [nats]
--   kl_low: Lower end of its 95 % interval, Student's t over units [nats]
--   n_units: Windows or prompts [windows or prompts]
with means as (
    select
        model, recipe, measure,
        sum(total) / sum(size) as kl_mean_nats,
        half_width_of_mean(total, size) as half_width,
        count(*) as n_units
    from search_units
    where measure in ('kl_texts', 'kl_prompts')
    group by all
)

select
    candidates.model, candidates.recipe, candidates.method, candidates.removed_share, candidates.strategy,
    case means.measure when 'kl_texts' then 'texts' else 'prompts' end as measured_on,
    means.kl_mean_nats,
    interval_of_positive_mean(means.kl_mean_nats, means.half_width)[1] as kl_low,
    interval_of_positive_mean(means.kl_mean_nats, means.half_width)[2] as kl_high,
    means.n_units
from search_candidates as candidates
inner join means using (model, recipe)
-- Quantization alone removes no weight.
where candidates.removed_share > 0
order by candidates.model, measured_on, candidates.removed_share, candidates.recipe
