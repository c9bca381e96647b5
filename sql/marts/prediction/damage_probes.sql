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
with

measured as (
    select
        steps.model,
        steps.recipe,
        avg(steps.kl_dense_pruned_nats) filter (where steps.step = 0) as kl_step0,
        avg(steps.var_p_dz) filter (where steps.step = 0) as var_p_step0,
        avg(steps.one_minus_cos_h) filter (where steps.step = 0) as one_minus_cos_h_step0,
        avg(steps.kl_dense_pruned_nats) as kl_mean,
        1 - avg(cast(steps.is_top1_same as integer)) as top1_change
    from decoding_at_reference as steps
    where steps.trajectory = 'teacher_forced' and steps.recipe <> 'dense'
    group by steps.model, steps.recipe
),

listed as (
    -- Lists unnested in one select are expanded in parallel.
    select
        model,
        recipe,
        unnest(['kl_step0', 'var_p_step0', 'one_minus_cos_h_step0', 'kl_mean', 'top1_change']) as probe,
        unnest([kl_step0, var_p_step0, one_minus_cos_h_step0, kl_mean, top1_change]) as damage
    from measured
),

dropped as (
    select
        model,
        recipe,
        unnest(sublayers_dropped) as sublayer
    from pruned_variants
)

select
    model,
    recipe,
    probe,
    damage
from listed
where damage is not null

union all

select
    dropped.model,
    dropped.recipe,
    'influence' as probe,
    sum(influences.influence) as damage
from dropped
inner join stg_block_influence as influences
    on dropped.model = influences.model and dropped.sublayer = influences.unit || '.' || influences.layer
group by dropped.model, dropped.recipe
