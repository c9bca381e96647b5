-- Sums per prompt that relate the local Var_p(Δz) of a sublayer to the KL at the output and its spikes.
-- grain: one row per model × recipe × layer × sublayer × lens × prompt.
-- key: model, recipe, layer, sublayer, lens, prompt_id
-- inputs: stg_layer_transitions, decoding_at_reference
-- how to read: teacher forced, at the reference temperature. Ranks and thresholds are over all prompts. The dense
--   recipe and sublayers that the recipe did not touch are excluded.
-- reason: q01 computes all figures and their intervals from these sums, so the layer records are read once. The view is
--   long because names are replaced by integers until the records are aggregated: sorting a hundred million rows by
--   name takes several times as long.
-- columns:
--   n: Positions with a local shift and an output [positions]
--   spikes: Positions whose output KL is above the variant's 90th percentile [positions]
--   calm: The other positions [positions]
--   calm_below_spikes: Sum over the spikes of the calm positions below them in variance; ties count half
--   spikes_below_calm: Sum over the calm positions of the spikes below them in variance; ties count half
--   u: Sum of ranks in variance, within the sublayer
--   v: Sum of ranks in output KL, within the variant
--   uu: Sum of squared ranks in variance
--   vv: Sum of squared ranks in output KL
--   uv: Sum of the products of both ranks
--   largest: Positions among the tenth with the largest variance [positions]
--   largest_spikes: Spikes among them [positions]
--   largest_from: Smallest variance among them [logit²]
with outputs as (
    select model, recipe, prompt_id, position, temperature, kl_dense_pruned_nats
    from decoding_at_reference
    where trajectory = 'teacher_forced' and recipe <> 'dense'
),

variants as (
    select
        model, recipe,
        cast(row_number() over (order by model, recipe) as integer) as variant_id,
        quantile_cont(kl_dense_pruned_nats, 0.9) as spike_threshold_nats
    from outputs
    group by model, recipe
),

-- Small integers instead of names, because a hundred million rows are sorted by them.
prompts as (
    select
        model, recipe, prompt_id,
        cast(row_number() over (partition by model, recipe order by prompt_id) as integer) as prompt_index
    from outputs
    group by model, recipe, prompt_id
),

numbered as (
    select
        outputs.*,
        variants.variant_id, prompts.prompt_index,
        -- All sublayers share the outputs of a variant, so these are ranked once per variant.
        count_below(outputs.kl_dense_pruned_nats, variants.variant_id) as v,
        outputs.kl_dense_pruned_nats > variants.spike_threshold_nats as is_spike
    from outputs
    inner join variants using (model, recipe)
    inner join prompts using (model, recipe, prompt_id)
),

positions as (
    select
        -- One number for variant, layer, sublayer and lens.
        cast(
            4 * (65536 * cast(numbered.variant_id as bigint) + transitions.layer)
            + 2 * cast(transitions.sublayer = 'mlp' as integer)
            + cast(transitions.lens = 'normed' as integer) as bigint
        ) as group_id,
        numbered.prompt_index, numbered.is_spike, numbered.v, transitions.var_p_dz
    from stg_layer_transitions as transitions
    inner join numbered using (model, recipe, prompt_id, position, temperature)
    where transitions.scope = 'local' and transitions.is_changed
),

-- u counts the sublayer's positions with a smaller variance, v the variant's outputs with a smaller KL; ties count
-- half.
ranked as (
    select
        *,
        count_below(var_p_dz, group_id) as u,
        sum_below(cast(not is_spike as integer), var_p_dz, group_id) as calm_below,
        percent_rank() over (partition by group_id order by var_p_dz) >= 0.9 as is_largest
    from positions
),

prompt_sums as (
    select
        group_id, prompt_index,
        count(*) as n,
        cast(count_if(is_spike) as double) as spikes,
        cast(count_if(not is_spike) as double) as calm,
        coalesce(sum(calm_below) filter (where is_spike), 0) as calm_below_spikes,
        coalesce(sum(u - calm_below) filter (where not is_spike), 0) as spikes_below_calm,
        sum(u) as u,
        sum(v) as v,
        sum(u * u) as uu,
        sum(v * v) as vv,
        sum(u * v) as uv,
        cast(count_if(is_largest) as double) as largest,
        cast(count_if(is_largest and is_spike) as double) as largest_spikes,
        min(var_p_dz) filter (where is_largest) as largest_from
    from ranked
    group by all
)

select
    variants.model, variants.recipe,
    cast(sums.group_id // 4 % 65536 as smallint) as layer,
    case sums.group_id // 2 % 2 when 1 then 'mlp' else 'attn' end as sublayer,
    case sums.group_id % 2 when 1 then 'normed' else 'raw' end as lens,
    prompts.prompt_id, sums.n, sums.spikes, sums.calm, sums.calm_below_spikes, sums.spikes_below_calm, sums.u, sums.v,
    sums.uu, sums.vv, sums.uv, sums.largest, sums.largest_spikes, sums.largest_from
from prompt_sums as sums
inner join variants
    on sums.group_id // 4 // 65536 = variants.variant_id
inner join prompts using (model, recipe, prompt_index)
