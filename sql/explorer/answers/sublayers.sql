-- The three sublayers that are most often among the three with the largest KL of a variant.
-- grain: one row per model × sublayer, three per model.
-- inputs: layer_kl_share
with

-- A variant with at most three changed sublayers is left out, because all of them are among its top three.
counted as (
    select *
    from layer_kl_share
    qualify count(*) over (partition by model, recipe) > 3
),

sums as (
    select
        model, layer, sublayer,
        count(*) as variants,
        avg(share_of_kl) as share_mean,
        count(*) filter (where place_in_order <= 3) as variants_top3
    from counted
    group by all
)

select *
from sums
where variants_top3 > 0
qualify
    row_number() over (partition by model order by variants_top3 desc, share_mean desc, layer asc, sublayer asc) <= 3
order by model asc, variants_top3 desc, share_mean desc, layer asc, sublayer asc
