-- Perplexity on the study's texts.
-- grain: one row per model × recipe × text.
-- inputs: kld_summary
select
    model,
    recipe,
    text_id,
    tokens,
    ppl_dense,
    ppl_pruned,
    ppl_pruned_se,
    ln_ppl_ratio,
    ln_ppl_ratio_se,
    kl_mean_nats,
    kl_mean_nats_se,
    kl_median_nats,
    kl_p99_nats,
    kl_noise_p95_nats,
    top1_agreement,
    delta_p_rms
from kld_summary
order by model, recipe, text_id
