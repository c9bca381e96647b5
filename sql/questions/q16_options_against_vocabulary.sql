-- Do the answer options stay put while the whole vocabulary moves?
-- grain: one row per model × recipe × temperature.
-- key: model, recipe, temperature
-- inputs: stg_option_subspace, noise_variants
-- how to read: *_options are taken over the options alone, renormalised; kl_share is the mean KL over the options
--   divided by that over the vocabulary, small where the options are spared. mass_* is the probability of all options
--   together. Means over questions; n_questions says how much they carry. The dense recipe
--   and noise are left out.
-- reason: the paper explains surviving multiple-choice scores by a stable tail of the distribution.
select
    questions.model,
    questions.recipe,
    questions.temperature,
    count(*) as n_questions,
    count_if(questions.is_argmax_same) as argmax_kept,
    avg(questions.kl_options_dense_pruned_nats) as kl_options_mean_nats,
    avg(questions.kl_dense_pruned_nats) as kl_vocabulary_mean_nats,
    avg(questions.kl_options_dense_pruned_nats) / nullif(avg(questions.kl_dense_pruned_nats), 0) as kl_share,
    avg(questions.one_minus_cos_z_options) as one_minus_cos_z_options_mean,
    avg(questions.one_minus_cos_p_options) as one_minus_cos_p_options_mean,
    avg(questions.one_minus_cos_h) as one_minus_cos_h_mean,
    avg(questions.one_minus_cos_z) as one_minus_cos_z_vocabulary_mean,
    avg(questions.one_minus_cos_p) as one_minus_cos_p_vocabulary_mean,
    avg(questions.mass_dense) as mass_dense_mean,
    avg(questions.mass_pruned) as mass_pruned_mean
from stg_option_subspace as questions
anti join noise_variants
    on questions.model = noise_variants.model and questions.recipe = noise_variants.recipe
where questions.recipe <> 'dense'
group by questions.model, questions.recipe, questions.temperature
order by questions.model, questions.recipe, questions.temperature
