-- The sum of the effects of single treatments, and the measured KL of the allocation that has them all.
-- grain: one row per model × search × trial whose objective is the KL and whose treatments all have an effect alone.
-- key: model, search, trial
-- inputs: stg_search_trials, search_treatments
-- how to read: both sides are geometric means over items. ratio is 1 if effects add up, above 1 if the treatments
--   together do more damage than the sum, below 1 if less. n_computed effects were not measured but computed from those
--   of matrices at another sparsity. Allocations with one treatment show what else differs, such as the items. Trials
--   that differ in one exchange are not independent.
-- reason: a search that adds up effects is only as good as this sum.
-- columns:
--   effects_sum_nats: Sum of the effects alone [nats]
--   n_computed: Effects in the sum that were computed [sublayers]
--   typical_nats: Geometric mean of the measured objective over items, as effects are means [nats]
--   ratio: Measured objective over the sum; NULL if the sum is 0 [ratio] = typical_nats/effects_sum_nats
with sums as (
    select
        model, search, trial,
        sum(effect_nats) as effects_sum_nats,
        cast(count_if(n_items = 0) as integer) as n_computed
    from search_treatments
    group by all
    having count(effect_nats) = count(*)
)

select
    trials.model, trials.search, trials.trial, trials.strategy, trials.move, trials.remove, trials.n_treated,
    sums.effects_sum_nats, sums.n_computed, trials.predicted_nats, trials.measured_nats, trials.measured_low,
    trials.measured_high,
    typical_of(trials.item_nats) as typical_nats,
    typical_of(trials.item_nats) / nullif(sums.effects_sum_nats, 0) as ratio
from stg_search_trials as trials
inner join sums using (model, search, trial)
where trials.objective = 'kl'
order by trials.model, trials.search, trials.trial
