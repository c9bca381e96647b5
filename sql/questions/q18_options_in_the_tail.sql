-- Are the answer options in the tail of the distribution, by rank and by probability?
-- grain: one row per model × recipe × question.
-- key: model, recipe, prompt_id
-- inputs: option_shift, stg_models, reference_temperature
-- how to read: ranks are in the whole vocabulary, 1 is first; rank_*_share is the median rank over the vocabulary size.
--   mass_* is the probability of all options together. *_dense is the same for every recipe. Everything is at the
--   reference temperature. The dense recipe is excluded.
-- reason: the paper's explanation needs options with little mass; if they lead the distribution, it does not apply.
-- columns:
--   n_options: Options of the question [options]
--   rank_dense_best: Best dense rank of an option in the whole vocabulary; 1 is first [rank]
--   rank_dense_median: Median dense rank of the options [rank]
--   rank_dense_worst: Worst dense rank of an option [rank]
--   rank_dense_share: The median rank as a part of the vocabulary [share] = rank_dense_median/vocabulary
--   mass_dense: Dense probability of all options together [probability] = Σ p_full_dense
--   rank_pruned_best: Best pruned rank of an option in the whole vocabulary; 1 is first [rank]
--   rank_pruned_median: Median pruned rank of the options [rank]
--   rank_pruned_worst: Worst pruned rank of an option [rank]
--   rank_pruned_share: The median rank as a part of the vocabulary [share] = rank_pruned_median/vocabulary
--   mass_pruned: Pruned probability of all options together [probability] = Σ p_full_pruned
select
    shift.model, shift.recipe, shift.prompt_id,
    count(*) as n_options,
    min(shift.rank_dense) as rank_dense_best,
    median(shift.rank_dense) as rank_dense_median,
    max(shift.rank_dense) as rank_dense_worst,
    median(shift.rank_dense) / any_value(models.vocabulary) as rank_dense_share,
    sum(shift.p_full_dense) as mass_dense,
    min(shift.rank_pruned) as rank_pruned_best,
    median(shift.rank_pruned) as rank_pruned_median,
    max(shift.rank_pruned) as rank_pruned_worst,
    median(shift.rank_pruned) / any_value(models.vocabulary) as rank_pruned_share,
    sum(shift.p_full_pruned) as mass_pruned
from option_shift as shift
inner join reference_temperature using (model, recipe, temperature)
left join stg_models as models using (model)
where shift.recipe <> 'dense'
group by all
order by shift.model, shift.recipe, shift.prompt_id
