-- Do the answer options keep their probabilities while the whole vocabulary moves?
-- grain: one row per model × recipe × temperature.
-- key: model, recipe, temperature
-- inputs: options_without_noise
-- how to read: *_options are computed over the options alone, renormalised; kl_share is the mean KL over the options
--   divided by that over the vocabulary, small where the options move less. mass_* is the probability of all options
--   together. Means over n_questions questions. The dense recipe and noise variants are excluded.
-- reason: the paper explains surviving multiple-choice scores by a stable tail of the distribution.
-- columns:
--   n_questions: Questions [questions]
--   argmax_kept: Questions whose most likely option is also the dense model's [questions]
--   kl_options_mean_nats: Mean KL(dense‖pruned) over the options, renormalised [nats]
--   kl_vocabulary_mean_nats: Mean KL(dense‖pruned) over the whole vocabulary [nats]
--   kl_share: KL over the options relative to the vocabulary; small where the options move less [ratio] =
--     kl_options_mean_nats/kl_vocabulary_mean_nats
--   one_minus_cos_z_options_mean: Mean cosine defect of the option logits [1 - cosine]
--   one_minus_cos_p_options_mean: Mean cosine defect of the option probabilities, renormalised [1 - cosine]
--   one_minus_cos_h_mean: Mean cosine defect of what the head reads [1 - cosine]
--   one_minus_cos_z_vocabulary_mean: Mean cosine defect of all logits [1 - cosine]
--   one_minus_cos_p_vocabulary_mean: Mean cosine defect of all probabilities [1 - cosine]
--   mass_dense_mean: Mean dense probability of all options together [probability]
--   mass_pruned_mean: Mean pruned probability of all options together [probability]
select
    questions.model,
    questions.recipe,
    questions.temperature,
    count(*) as n_questions,
    cast(count_if(questions.is_argmax_same) as bigint) as argmax_kept,
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
from options_without_noise as questions
where questions.recipe <> 'dense'
group by questions.model, questions.recipe, questions.temperature
order by questions.model, questions.recipe, questions.temperature
