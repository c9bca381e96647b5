-- Perplexity and divergence of every variant on every text, with their uncertainty over windows.
-- grain: one row per model × recipe × text.
-- key: model, recipe, text_id
-- inputs: kld_summary
-- how to read: the columns are those of kld_summary. Compare only rows of one text, context and stride.
-- reason: the usual comparison of compressed models, as a printed table.
select
    model, recipe, text_id, context, stride, tokens, windows, ppl_pruned, ppl_pruned_se, ln_ppl_ratio, ln_ppl_ratio_se,
    kl_mean_nats, kl_mean_nats_se, kl_median_nats, kl_p99_nats, delta_p_rms, delta_p_rms_se, top1_agreement,
    top1_agreement_se, kl_noise_p95_nats
from kld_summary
order by model, text_id, context, stride, recipe <> 'dense', recipe
