-- Perplexity on the study's texts.
-- grain: one row per model × recipe × text.
-- inputs: kld_summary
-- how to read: ppl_low and ppl_high are the 95 % interval of the ratio to the dense model's perplexity, paired by
--   window, times that perplexity.
select
    model, recipe, text_id, tokens, ppl_dense, ppl_pruned, ppl_pruned_se,
    ppl_dense * exp(ln_ppl_ratio - t_quantile_975(windows - 1) * nullif(ln_ppl_ratio_se, 0)) as ppl_low,
    ppl_dense * exp(ln_ppl_ratio + t_quantile_975(windows - 1) * nullif(ln_ppl_ratio_se, 0)) as ppl_high,
    kl_mean_nats, kl_mean_nats_se, kl_p99_nats, kl_noise_p95_nats, top1_agreement
from kld_summary
order by model, recipe, text_id
