-- The damage of each variant as measured by probes that need no task.
-- grain: one row per pruned variant × probe.
-- key: model, recipe, probe
-- inputs: decoding_at_reference, pruned_variants, stg_block_influence
-- how to read: means over prompts, teacher forced at the reference temperature: kl_step0, var_p_step0 and
--   one_minus_cos_h_step0 use only the first generated token (one pass over each prompt), kl_mean and top1_change use
--   every token. influence is the sum of block_influence over the dropped sublayers; a recipe that drops none has no
--   such row. Each probe is 0 for the dense model and larger for more damage. Noise variants are excluded.
-- reason: single definition of the probes for rankings and predictions.
-- columns:
--   probe: Name of the probe [label]
--   damage: Its amount [nats for kl_; logit² for var_p_; share for top1_change; 1 − cosine for the others]
with at_output as (
    -- Row i gets entry i of every unnested list.
    select
        model, recipe,
        unnest(['kl_step0', 'var_p_step0', 'one_minus_cos_h_step0', 'kl_mean', 'top1_change']) as probe,
        unnest([
            avg(kl_dense_pruned_nats) filter (where step = 0),
            avg(var_p_dz) filter (where step = 0),
            avg(one_minus_cos_h) filter (where step = 0),
            avg(kl_dense_pruned_nats),
            1 - avg(cast(is_top1_same as integer))
        ]) as damage
    from decoding_at_reference
    where trajectory = 'teacher_forced' and recipe <> 'dense'
    group by model, recipe
),

dropped as (
    select
        model, recipe,
        unnest(sublayers_dropped) as sublayer
    from pruned_variants
)

select model, recipe, probe, damage
from at_output
where damage is not null

union all

select
    dropped.model, dropped.recipe,
    'influence' as probe,
    sum(influences.influence) as damage
from dropped
inner join stg_block_influence as influences
    on dropped.model = influences.model and dropped.sublayer = influences.unit || '.' || influences.layer
group by all
