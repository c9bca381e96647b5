-- What llama.cpp's --kl-divergence prints for a text: KL, change of the true token's probability, perplexity, top
-- token.
-- grain: one row per model × recipe × text.
-- key: model, recipe, text_id
-- inputs: text_statistics, text_window_errors, stg_variants, noise_variants
-- how to read: every figure is over the text's scored tokens at T = 1. A standard error that ends in _se takes windows
--   as the independent units (cluster-robust) and is NULL below two windows; with few windows it is rough. One that
--   ends in _se_iid takes every token as independent, as llama.cpp does, which is too small because the errors of
--   neighbouring tokens correlate. kl is KL(dense‖pruned) in nats. delta_p is the true token's probability under the
--   variant minus the dense one: below 0 the variant does worse. ln_ppl_ratio is ln(ppl_pruned / ppl_dense), paired
--   token by token, so its error is far below the errors of the two perplexities. Percentiles interpolate between
--   neighbours. *_noise and kl_noise_* are the same figures of the dense model against itself, rounded or summed in
--   another way, with the same text_hash, context and stride (NULL if there is none), and the largest over noise
--   variants. A figure within them is not evidence about pruning. is_below_noise says that the median KL is at most
--   kl_noise_p95_nats. Noise variants are excluded. Compare two perplexities only if text_hash, context and stride are
--   the same; calibration_hash is that of the variant's tokens.
-- reason: perplexity and these figures are the usual way to compare compressed models on a text. The view is long
--   because llama.cpp prints so many figures.
-- columns:
--   windows: Windows that they were scored in [windows]
--   ppl_dense: Perplexity of the dense model [tokens] = exp(−mean ln p(target))
--   ppl_dense_se: Standard error of ppl_dense, windows as independent units; NULL below two [tokens]
--   ppl_pruned: Perplexity of the variant [tokens] = exp(−mean ln q(target))
--   ppl_pruned_se: Standard error of ppl_pruned, windows as independent units; NULL below two [tokens]
--   ln_ppl_ratio: Logarithm of the ratio of the perplexities, paired token by token [nats] = mean
--     ln(p(target)/q(target))
--   ln_ppl_ratio_se: Standard error of ln_ppl_ratio, windows as independent units; NULL below two [nats]
--   ppl_ratio: Ratio of the perplexities [ratio] = ppl_pruned/ppl_dense
--   ppl_ratio_se: Standard error of ppl_ratio, windows as independent units; NULL below two [ratio]
--   ln_ppl_correlation: Correlation of the tokens' log-probabilities on both sides [-1 to 1] = corr(ln p(target), ln
--     q(target))
--   ln_ppl_ratio_noise: Size of ln_ppl_ratio that rounding alone causes; NULL without noise [nats]
--   ppl_difference: Difference of the perplexities [tokens] = ppl_pruned − ppl_dense
--   ppl_difference_se: Standard error of ppl_difference, windows as independent units; NULL below two [tokens]
--   kl_mean_nats: Mean KL(dense‖pruned) [nats]
--   kl_mean_nats_se: Standard error of kl_mean_nats, windows as independent units; NULL below two [nats]
--   kl_max_nats: Largest of KL(dense‖pruned) [nats]
--   kl_p999_nats: 99.9th percentile of KL(dense‖pruned) [nats]
--   kl_p99_nats: 99th percentile of KL(dense‖pruned) [nats]
--   kl_p95_nats: 95th percentile of KL(dense‖pruned) [nats]
--   kl_median_nats: Median of KL(dense‖pruned) [nats]
--   kl_p10_nats: 10th percentile of KL(dense‖pruned) [nats]
--   kl_p05_nats: 5th percentile of KL(dense‖pruned) [nats]
--   kl_p01_nats: 1st percentile of KL(dense‖pruned) [nats]
--   kl_p001_nats: 0.1st percentile of KL(dense‖pruned) [nats]
--   kl_min_nats: Smallest of KL(dense‖pruned) [nats]
--   kl_noise_mean_nats: Mean KL that rounding alone causes on this text; NULL without noise [nats]
--   kl_noise_max_nats: Largest KL that rounding alone causes on this text; NULL without noise [nats]
--   kl_noise_p99_nats: 99th percentile of the KL that rounding alone causes on this text; NULL without noise [nats]
--   kl_noise_p95_nats: 95th percentile of the KL that rounding alone causes on this text; NULL without noise [nats]
--   kl_noise_median_nats: Median of the KL that rounding alone causes on this text; NULL without noise [nats]
--   is_below_noise: Whether the median KL is at most what rounding causes; NULL without noise = kl_median_nats <=
--     kl_noise_p95_nats
--   delta_p_mean: Mean change of the target's probability; below 0 the variant does worse [probability] = mean
--     (q(target) − p(target))
--   delta_p_mean_se: Standard error of delta_p_mean, windows as independent units; NULL below two [probability]
--   delta_p_rms: Root mean square of that change [probability] = √mean (q(target) − p(target))²
--   delta_p_rms_se: Standard error of delta_p_rms, windows as independent units; NULL below two [probability]
--   delta_p_rms_noise: delta_p_rms that rounding alone causes; NULL without noise [probability]
--   delta_p_max: Largest of the change of the target's probability [probability]
--   delta_p_p999: 99.9th percentile of the change of the target's probability [probability]
--   delta_p_p99: 99th percentile of the change of the target's probability [probability]
--   delta_p_p95: 95th percentile of the change of the target's probability [probability]
--   delta_p_p75: 75th percentile of the change of the target's probability [probability]
--   delta_p_median: Median of the change of the target's probability [probability]
--   delta_p_p25: 25th percentile of the change of the target's probability [probability]
--   delta_p_p10: 10th percentile of the change of the target's probability [probability]
--   delta_p_p05: 5th percentile of the change of the target's probability [probability]
--   delta_p_p01: 1st percentile of the change of the target's probability [probability]
--   delta_p_p001: 0.1st percentile of the change of the target's probability [probability]
--   delta_p_min: Smallest of the change of the target's probability [probability]
--   top1_agreement: Share of tokens with the same most likely token on both sides [share]
--   top1_agreement_se: Standard error of top1_agreement, windows as independent units; NULL below two [share]
--   top1_agreement_noise: top1_agreement under rounding alone; NULL without noise [share]
with

-- A CTE that is read twice is computed once.
over_tokens as (
    select * from text_statistics
),

floors as (
    select
        over_tokens.model, over_tokens.text_id, over_tokens.text_hash, over_tokens.context, over_tokens.stride,
        max(abs(over_tokens.ln_ratio)) as ln_ppl_ratio_noise,
        max(over_tokens.kl) as kl_noise_mean_nats,
        max(over_tokens.kl_max) as kl_noise_max_nats,
        max(over_tokens.kl_quantiles[2]) as kl_noise_p99_nats,
        max(over_tokens.kl_quantiles[3]) as kl_noise_p95_nats,
        max(over_tokens.kl_quantiles[5]) as kl_noise_median_nats,
        max(over_tokens.delta_p_rms) as delta_p_rms_noise,
        min(over_tokens.is_top1_same) as top1_agreement_noise
    from over_tokens
    inner join noise_variants using (model, recipe)
    group by all
)

select
    over_tokens.model, over_tokens.recipe, over_tokens.text_id, over_tokens.text_hash, over_tokens.context,
    over_tokens.stride, stg_variants.calibration_hash, over_tokens.tokens, over_windows.windows,
    exp(over_tokens.nll_dense) as ppl_dense,
    exp(over_tokens.nll_dense) * over_windows.nll_dense_se as ppl_dense_se,
    exp(over_tokens.nll_dense) * over_tokens.nll_dense_se as ppl_dense_se_iid,
    exp(over_tokens.nll_pruned) as ppl_pruned,
    exp(over_tokens.nll_pruned) * over_windows.nll_pruned_se as ppl_pruned_se,
    exp(over_tokens.nll_pruned) * over_tokens.nll_pruned_se as ppl_pruned_se_iid,
    over_tokens.ln_ratio as ln_ppl_ratio,
    over_windows.ln_ratio_se as ln_ppl_ratio_se,
    over_tokens.ln_ratio_se as ln_ppl_ratio_se_iid,
    exp(over_tokens.ln_ratio) as ppl_ratio,
    exp(over_tokens.ln_ratio) * over_windows.ln_ratio_se as ppl_ratio_se,
    exp(over_tokens.ln_ratio) * over_tokens.ln_ratio_se as ppl_ratio_se_iid,
    over_tokens.nll_correlation as ln_ppl_correlation,
    floors.ln_ppl_ratio_noise,
    exp(over_tokens.nll_pruned) - exp(over_tokens.nll_dense) as ppl_difference,
    error_of_difference(
        exp(over_tokens.nll_pruned) * over_windows.nll_pruned_se,
        exp(over_tokens.nll_dense) * over_windows.nll_dense_se,
        exp(over_tokens.nll_pruned + over_tokens.nll_dense) * over_windows.nll_covariance
    ) as ppl_difference_se,
    error_of_difference(
        exp(over_tokens.nll_pruned) * over_tokens.nll_pruned_se,
        exp(over_tokens.nll_dense) * over_tokens.nll_dense_se,
        exp(over_tokens.nll_pruned + over_tokens.nll_dense) * over_tokens.nll_covariance
    ) as ppl_difference_se_iid,
    over_tokens.kl as kl_mean_nats,
    over_windows.kl_se as kl_mean_nats_se,
    over_tokens.kl_se as kl_mean_nats_se_iid,
    over_tokens.kl_max as kl_max_nats,
    over_tokens.kl_quantiles[1] as kl_p999_nats,
    over_tokens.kl_quantiles[2] as kl_p99_nats,
    over_tokens.kl_quantiles[3] as kl_p95_nats,
    over_tokens.kl_quantiles[4] as kl_p90_nats,
    over_tokens.kl_quantiles[5] as kl_median_nats,
    over_tokens.kl_quantiles[6] as kl_p10_nats,
    over_tokens.kl_quantiles[7] as kl_p05_nats,
    over_tokens.kl_quantiles[8] as kl_p01_nats,
    over_tokens.kl_quantiles[9] as kl_p001_nats,
    over_tokens.kl_min as kl_min_nats,
    floors.kl_noise_mean_nats, floors.kl_noise_max_nats, floors.kl_noise_p99_nats, floors.kl_noise_p95_nats,
    floors.kl_noise_median_nats,
    over_tokens.kl_quantiles[5] <= floors.kl_noise_p95_nats as is_below_noise,
    over_tokens.delta_p_target as delta_p_mean,
    over_windows.delta_p_target_se as delta_p_mean_se,
    over_tokens.delta_p_target_se as delta_p_mean_se_iid,
    over_tokens.delta_p_rms,
    over_windows.delta_p_square_se / (2 * nullif(over_tokens.delta_p_rms, 0)) as delta_p_rms_se,
    over_tokens.delta_p_square_se / (2 * nullif(over_tokens.delta_p_rms, 0)) as delta_p_rms_se_iid,
    floors.delta_p_rms_noise, over_tokens.delta_p_max,
    over_tokens.delta_p_quantiles[1] as delta_p_p999,
    over_tokens.delta_p_quantiles[2] as delta_p_p99,
    over_tokens.delta_p_quantiles[3] as delta_p_p95,
    over_tokens.delta_p_quantiles[4] as delta_p_p90,
    over_tokens.delta_p_quantiles[5] as delta_p_p75,
    over_tokens.delta_p_quantiles[6] as delta_p_median,
    over_tokens.delta_p_quantiles[7] as delta_p_p25,
    over_tokens.delta_p_quantiles[8] as delta_p_p10,
    over_tokens.delta_p_quantiles[9] as delta_p_p05,
    over_tokens.delta_p_quantiles[10] as delta_p_p01,
    over_tokens.delta_p_quantiles[11] as delta_p_p001,
    over_tokens.delta_p_min,
    over_tokens.is_top1_same as top1_agreement,
    over_windows.is_top1_same_se as top1_agreement_se,
    over_tokens.is_top1_same_se as top1_agreement_se_iid,
    floors.top1_agreement_noise
from over_tokens
inner join text_window_errors as over_windows using (model, recipe, text_id)
left join stg_variants using (model, recipe)
left join floors using (model, text_id, text_hash, context, stride)
anti join noise_variants using (model, recipe)
