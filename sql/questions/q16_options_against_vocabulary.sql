-- Do the answer options stay put while the whole vocabulary moves?
-- grain: one row per model × recipe × temperature.
-- key: model, recipe, temperature
-- inputs: stg_option_subspace
-- how to read: *_options are taken over the options alone, renormalised; kl_share is the mean KL over the options
--   divided by that over the vocabulary, small where the options are spared. mass_* is the probability of all options
--   together. Means over questions; n_questions says how much they carry. The dense recipe is left out.
-- reason: the paper explains surviving multiple-choice scores by a stable tail of the distribution.
select
    model,
    recipe,
    temperature,
    count(*) as n_questions,
    count_if(is_argmax_same) as argmax_kept,
    avg(kl_options_dense_pruned_nats) as kl_options_mean_nats,
    avg(kl_dense_pruned_nats) as kl_vocabulary_mean_nats,
    avg(kl_options_dense_pruned_nats) / nullif(avg(kl_dense_pruned_nats), 0) as kl_share,
    avg(one_minus_cos_z_options) as one_minus_cos_z_options_mean,
    avg(one_minus_cos_p_options) as one_minus_cos_p_options_mean,
    avg(one_minus_cos_p) as one_minus_cos_p_vocabulary_mean,
    avg(mass_dense) as mass_dense_mean,
    avg(mass_pruned) as mass_pruned_mean
from stg_option_subspace
where recipe <> 'dense'
group by model, recipe, temperature
order by model, recipe, temperature
