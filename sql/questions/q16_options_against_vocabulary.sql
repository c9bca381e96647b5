-- Do the answer options keep their probabilities while the whole vocabulary moves?
-- grain: one row per model × recipe × temperature.
-- key: model, recipe, temperature
-- inputs: stg_option_subspace, noise_variants
-- how to read: *_options are computed over the options alone and *_rest over all other tokens, each renormalised.
--   options_share is the part of the KL over the vocabulary that lies among the options, m·KL(options)/KL(vocabulary)
--   with their dense mass m; by the chain rule it is at most 1. If m is large, KL(options) can hardly exceed
--   KL(vocabulary). Compare it with kl_rest_mean_nats, which may be smaller or larger, to see whether the options move
--   less. mass_* is the probability of all options together. Figures are means over questions, and options_share a
--   ratio of sums. The rows of noise variants are the null. The dense recipe is excluded.
-- reason: the paper explains surviving multiple-choice scores by a stable tail of the distribution.
-- columns:
--   is_noise: Whether nothing is pruned: the null of the other rows
--   n_questions: Questions [questions]
--   argmax_kept: Questions whose most likely option is also the dense model's [questions]
--   kl_options_mean_nats: Mean KL(dense‖pruned) over the options, renormalised [nats]
--   kl_vocabulary_mean_nats: Mean KL(dense‖pruned) over the whole vocabulary [nats]
--   kl_rest_mean_nats: Mean KL(dense‖pruned) over the tokens that are not options, renormalised [nats]
--   options_share: Part of the KL that lies among the options [share] = Σ mass_dense·kl_options/Σ kl_vocabulary
--   one_minus_cos_z_options_mean: Mean cosine defect of the option logits [1 - cosine]
--   one_minus_cos_p_options_mean: Mean cosine defect of the option probabilities, renormalised [1 - cosine]
--   one_minus_cos_h_mean: Mean cosine defect of what the head reads [1 - cosine]
--   one_minus_cos_z_vocabulary_mean: Mean cosine defect of all logits [1 - cosine]
--   one_minus_cos_p_vocabulary_mean: Mean cosine defect of all probabilities [1 - cosine]
--   mass_dense_mean: Mean dense probability of all options together [probability]
--   mass_pruned_mean: Mean pruned probability of all options together [probability]
select
    questions.model, questions.recipe, questions.temperature,
    noise_variants.recipe is not null as is_noise,
    count(*) as n_questions,
    cast(count_if(questions.is_argmax_same) as bigint) as argmax_kept,
    avg(questions.kl_options_dense_pruned_nats) as kl_options_mean_nats,
    avg(questions.kl_dense_pruned_nats) as kl_vocabulary_mean_nats,
    avg(
        kl_of_rest(
            questions.kl_dense_pruned_nats, questions.kl_options_dense_pruned_nats, questions.mass_dense,
            questions.mass_pruned
        )
    ) as kl_rest_mean_nats,
    sum(cast(questions.mass_dense as double) * questions.kl_options_dense_pruned_nats)
    / nullif(sum(questions.kl_dense_pruned_nats), 0) as options_share,
    avg(questions.one_minus_cos_z_options) as one_minus_cos_z_options_mean,
    avg(questions.one_minus_cos_p_options) as one_minus_cos_p_options_mean,
    avg(questions.one_minus_cos_h) as one_minus_cos_h_mean,
    avg(questions.one_minus_cos_z) as one_minus_cos_z_vocabulary_mean,
    avg(questions.one_minus_cos_p) as one_minus_cos_p_vocabulary_mean,
    avg(questions.mass_dense) as mass_dense_mean,
    avg(questions.mass_pruned) as mass_pruned_mean
from stg_option_subspace as questions
left join noise_variants using (model, recipe)
where questions.recipe <> 'dense'
group by all
order by questions.model, is_noise, questions.recipe, questions.temperature
