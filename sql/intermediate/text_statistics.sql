-- Means, errors and percentiles of the scored tokens of a text, for variants and for noise alike.
-- grain: one row per variant × text, noise included.
-- key: model, recipe, text_id
-- inputs: text_token_losses
-- how to read: errors take every token as independent, as llama.cpp does; text_window_errors takes windows as
--   independent. Percentiles interpolate between neighbours.
-- reason: kld_summary reads these figures twice: for a variant, and for the noise variants that it is compared with.
-- columns:
--   tokens: Scored tokens [tokens]
--   nll_dense: Mean loss of the dense model [nats]
--   nll_pruned: Mean loss of the variant [nats]
--   nll_covariance: Covariance of the two mean losses [nats²]
--   nll_correlation: Correlation of the two losses over tokens; NULL below 10 tokens [-1 to 1]
--   ln_ratio: Mean of the variant's loss minus the dense one [nats]
--   delta_p_target: Mean change of the target's probability [probability]
--   delta_p_rms: Root mean square of that change [probability]
--   delta_p_square_se: Standard error of its mean square [probability²]
--   is_top1_same: Share of tokens with the same most likely token [share]
--   kl: Mean KL(dense‖pruned) [nats]
--   kl_max: Largest KL [nats]
--   kl_quantiles: 99.9th, 99th, 95th, 90th, 50th, 10th, 5th, 1st and 0.1st percentile of KL [nats]
--   kl_min: Smallest KL [nats]
--   delta_p_max: Largest change of the target's probability [probability]
--   delta_p_quantiles: 99.9th, 99th, 95th, 90th, 75th, 50th, 25th, 10th, 5th, 1st and 0.1st percentile of that change
--     [probability]
--   delta_p_min: Smallest change of the target's probability [probability]
select
    model, recipe, text_id,
    any_value(text_hash) as text_hash,
    any_value(context) as context,
    any_value(stride) as stride,
    count(*) as tokens,
    avg(nll_dense) as nll_dense,
    standard_error(nll_dense) as nll_dense_se,
    avg(nll_pruned) as nll_pruned,
    standard_error(nll_pruned) as nll_pruned_se,
    covar_samp(nll_dense, nll_pruned) / count(*) as nll_covariance,
    case
        when correlation(nll_dense, nll_pruned) is not null
            then least(1, greatest(-1, correlation(nll_dense, nll_pruned)))
    end as nll_correlation,
    avg(ln_ratio) as ln_ratio,
    standard_error(ln_ratio) as ln_ratio_se,
    avg(delta_p_target) as delta_p_target,
    standard_error(delta_p_target) as delta_p_target_se,
    sqrt(avg(delta_p_target ** 2)) as delta_p_rms,
    standard_error(delta_p_target ** 2) as delta_p_square_se,
    avg(is_top1_same) as is_top1_same,
    standard_error(is_top1_same) as is_top1_same_se,
    avg(kl) as kl,
    standard_error(kl) as kl_se,
    max(kl) as kl_max,
    quantile_cont(kl, [0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001]) as kl_quantiles,
    min(kl) as kl_min,
    max(delta_p_target) as delta_p_max,
    quantile_cont(
        delta_p_target, [0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001]
    ) as delta_p_quantiles,
    min(delta_p_target) as delta_p_min
from text_token_losses
group by all
