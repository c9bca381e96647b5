-- Perplexity and KL on the study's texts, of the variants with the smallest and the largest perplexity.
-- grain: one row per model × text.
-- inputs: kld_summary, variant_summary
select
    texts.model, texts.text_id,
    count(*) as variants,
    first(texts.tokens order by texts.ppl_pruned, texts.recipe) as tokens,
    first(texts.ppl_dense order by texts.ppl_pruned, texts.recipe) as ppl_dense,
    first(texts.recipe order by texts.ppl_pruned, texts.recipe) as least_recipe,
    last(texts.recipe order by texts.ppl_pruned, texts.recipe) as most_recipe,
    min(texts.ppl_pruned) as least_ppl,
    max(texts.ppl_pruned) as most_ppl,
    first(texts.kl_mean_nats order by texts.ppl_pruned, texts.recipe) as least_kl_mean_nats,
    last(texts.kl_mean_nats order by texts.ppl_pruned, texts.recipe) as most_kl_mean_nats,
    first(texts.top1_agreement order by texts.ppl_pruned, texts.recipe) as least_top1_agreement,
    last(texts.top1_agreement order by texts.ppl_pruned, texts.recipe) as most_top1_agreement
from kld_summary as texts
semi join variant_summary as variants
    on texts.model = variants.model and texts.recipe = variants.recipe and variants.method <> 'dense'
group by all
order by texts.model, texts.text_id
