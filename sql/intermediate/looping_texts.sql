-- The texts of pruned variants that fall into a loop although the dense model's text does not.
-- grain: one row per model × recipe × prompt with such a text.
-- key: model, recipe, prompt_id
-- inputs: stg_generations, variant_summary
-- how to read: first_flip_step and collapse_step are those of the variant's text, kl_step0_nats and
--   parameters_removed_share those of the variant. Noise variants are excluded.
-- reason: the report counts, ranks and explains these texts.
select
    texts.model, texts.recipe, texts.prompt_id, texts.first_flip_step, texts.collapse_step,
    variants.parameters_removed_share, variants.kl_step0_nats
from stg_generations as texts
inner join variant_summary as variants using (model, recipe)
inner join stg_generations as dense using (model, prompt_id)
where dense.recipe = 'dense' and texts.collapse_step is not null and dense.collapse_step is null
