-- The three sublayers with the largest KL, for the mildest variant that loops, or for the mildest of all if none loops.
-- grain: one row per model × sublayer, three per model.
-- inputs: looping_texts, variant_summary, layer_kl_share
with chosen as (
    select
        variants.model,
        first(
            variants.recipe
            order by
                looping_texts.collapse_step is null, variants.kl_step0_nats, looping_texts.collapse_step,
                variants.recipe
        ) as recipe
    from variant_summary as variants
    left join looping_texts using (model, recipe)
    where variants.recipe <> 'dense'
    group by all
)

select
    layer_kl_share.model, layer_kl_share.recipe, layer_kl_share.layer, layer_kl_share.sublayer,
    layer_kl_share.share_of_kl
from layer_kl_share
inner join chosen using (model, recipe)
where layer_kl_share.share_of_kl > 0 and layer_kl_share.place_in_order <= 3
order by layer_kl_share.model, layer_kl_share.place_in_order
