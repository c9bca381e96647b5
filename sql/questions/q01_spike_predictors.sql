-- Which layers' Var_p(Δz), measured locally, predict KL spikes at the output?
-- grain: one row per model × recipe × layer × sublayer × lens.
-- key: model, recipe, layer, sublayer, lens
-- inputs: stg_layer_transitions, decoding_at_reference
-- how to read: a spike is a position whose output KL(dense‖pruned), teacher forced at the reference temperature, lies
--   above the variant's own 90th percentile. auc says whether this sublayer's Var_p(Δz) tells spikes from the rest (0.5
--   = no use), lift how many times more frequent spikes are where it is largest, spearman and pearson_log10 how far it
--   follows the output KL itself (ranked among all outputs of the variant). *_low and *_high bound a figure with 95 %
--   by drawing whole prompts, so that the positions of one prompt are not taken as independent: percentiles of 400
--   fixed resamples, each computed from sums over prompts with ranks and thresholds as they are over all prompts.
--   Resamples that rank anew have ends within a tenth of the interval's width of these from 12 prompts on, within a
--   fifth at 6. NULL says that the data cannot carry the figure: correlations below 10 positions, auc and lift below 3
--   spikes, bounds below 5 prompts (of auc and lift below 3 prompts with spikes) or where no resample differs. The
--   dense recipe and sublayers that the recipe did not touch are left out.
-- reason: a sublayer whose local variance foretells the spikes is where pruning hurts generation, and a cheap probe.
-- columns:
--   n: Positions with a local shift and an output [positions]
--   n_prompts: Prompts that they come from [prompts]
--   n_spikes: Positions whose output KL is above the variant's 90th percentile [positions]
--   spearman: Rank correlation of Var_p(Δz) here and the KL at the output; NULL below 10 positions [-1 to 1]
--   spearman_low: Lower end of its 95 % interval over prompts [-1 to 1]
--   spearman_high: Upper end of its 95 % interval over prompts [-1 to 1]
--   pearson_log10: Correlation of their logarithms; NULL below 10 positions [-1 to 1]
--   auc: Chance that Var_p(Δz) is larger at a spike than elsewhere; 0.5 is no use [probability]
--   auc_low: Lower end of its 95 % interval over prompts [probability]
--   auc_high: Upper end of its 95 % interval over prompts [probability]
--   top_decile_lift: Rate of spikes in the tenth with the largest Var_p(Δz) over their rate everywhere [ratio]
--   top_decile_lift_low: Lower end of its 95 % interval over prompts [ratio]
--   top_decile_lift_high: Upper end of its 95 % interval over prompts [ratio]
with

outputs as (
    select
        model,
        recipe,
        prompt_id,
        position,
        temperature,
        kl_dense_pruned_nats
    from decoding_at_reference
    where trajectory = 'teacher_forced' and recipe <> 'dense'
),

variants as (
    select
        model,
        recipe,
        cast(row_number() over (order by model, recipe) as integer) as variant_id,
        quantile_cont(kl_dense_pruned_nats, 0.9) as spike_threshold_nats
    from outputs
    group by model, recipe
),

-- Names become small integers before a hundred million rows are sorted by them.
prompts as (
    select
        model,
        recipe,
        prompt_id,
        cast(row_number() over (partition by model, recipe order by prompt_id) as integer) as prompt_index
    from outputs
    group by model, recipe, prompt_id
),

numbered as (
    select
        outputs.model,
        outputs.recipe,
        outputs.prompt_id,
        outputs.position,
        outputs.temperature,
        variants.variant_id,
        prompts.prompt_index,
        log10_positive(outputs.kl_dense_pruned_nats) as log_y,
        -- Sublayers share their outputs, so that these are ranked once a variant and not once a sublayer.
        count_below(outputs.kl_dense_pruned_nats, variants.variant_id) as v,
        outputs.kl_dense_pruned_nats > variants.spike_threshold_nats as is_spike
    from outputs
    inner join variants
        on outputs.model = variants.model and outputs.recipe = variants.recipe
    inner join prompts
        on
            outputs.model = prompts.model
            and outputs.recipe = prompts.recipe
            and outputs.prompt_id = prompts.prompt_id
),

positions as (
    select
        -- One number for variant, layer, sublayer and lens.
        cast(
            4 * (65536 * cast(numbered.variant_id as bigint) + transitions.layer)
            + 2 * cast(transitions.sublayer = 'mlp' as integer)
            + cast(transitions.lens = 'normed' as integer) as bigint
        ) as group_id,
        numbered.prompt_index,
        numbered.is_spike,
        numbered.v,
        numbered.log_y,
        transitions.var_p_dz
    from stg_layer_transitions as transitions
    inner join numbered
        on
            transitions.model = numbered.model
            and transitions.recipe = numbered.recipe
            and transitions.prompt_id = numbered.prompt_id
            and transitions.position = numbered.position
            and transitions.temperature = numbered.temperature
    where transitions.scope = 'local' and transitions.is_changed
),

-- u is how many of the sublayer's positions lie below this one in variance, v how many of the variant's outputs in KL;
-- equal ones count half.
ranked as (
    select
        group_id,
        prompt_index,
        is_spike,
        v,
        log_y,
        log10_positive(var_p_dz) as log_x,
        count_below(var_p_dz, group_id) as u,
        sum_below(cast(not is_spike as integer), var_p_dz, group_id) as calm_below,
        percent_rank() over (partition by group_id order by var_p_dz) >= 0.9 as is_largest
    from positions
),

-- All that the figures and their resamples need, so that the positions are read once.
prompt_sums as (
    select
        group_id,
        prompt_index,
        count(*) as n,
        cast(count(*) as double) as positions,
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
        count(log_x + log_y) as pairs,
        sum(log_x) filter (where log_y is not null) as x,
        sum(log_y) filter (where log_x is not null) as y,
        sum(log_x * log_x) filter (where log_y is not null) as xx,
        sum(log_y * log_y) filter (where log_x is not null) as yy,
        sum(log_x * log_y) as xy,
        min(log_x) filter (where log_y is not null) as x_min,
        max(log_x) filter (where log_y is not null) as x_max,
        min(log_y) filter (where log_x is not null) as y_min,
        max(log_y) filter (where log_x is not null) as y_max
    from ranked
    group by group_id, prompt_index
),

fits as (
    select
        group_id,
        cast(sum(n) as bigint) as n,
        count(*) as n_prompts,
        cast(sum(spikes) as bigint) as n_spikes,
        count_if(spikes > 0) as n_prompts_with_spikes,
        case
            when sum(n) >= 10 then correlation_of_sums(sum(n), sum(u), sum(v), sum(uu), sum(vv), sum(uv))
        end as spearman,
        case
            when sum(pairs) >= 10 and min(x_min) < max(x_max) and min(y_min) < max(y_max)
                then correlation_of_sums(sum(pairs), sum(x), sum(y), sum(xx), sum(yy), sum(xy))
        end as pearson_log10,
        case
            when sum(spikes) >= 3 and sum(calm) >= 3 then sum(calm_below_spikes) / (sum(spikes) * sum(calm))
        end as auc,
        case
            when sum(spikes) >= 3 and sum(calm) >= 3
                then sum(largest_spikes) / nullif(sum(largest), 0) / (sum(spikes) / sum(n))
        end as top_decile_lift,
        list(positions order by prompt_index) as positions,
        list(spikes order by prompt_index) as spikes,
        list(calm order by prompt_index) as calm,
        list(calm_below_spikes order by prompt_index) as calm_below_spikes,
        list(spikes_below_calm order by prompt_index) as spikes_below_calm,
        list(u order by prompt_index) as u,
        list(v order by prompt_index) as v,
        list(uu order by prompt_index) as uu,
        list(vv order by prompt_index) as vv,
        list(uv order by prompt_index) as uv,
        list(largest order by prompt_index) as largest,
        list(largest_spikes order by prompt_index) as largest_spikes
    from prompt_sums
    group by group_id
),

sizes as (
    select distinct n_prompts
    from fits
    where n_prompts >= 5
),

weighted as (
    select
        n_prompts,
        bootstrap_weights(n_prompts) as weights
    from sizes
),

-- Unnested beside the lists, the weights do not copy them as a join with every resample would.
resamples as (
    select
        fits.*,
        unnest(weighted.weights) as weights
    from fits
    inner join weighted
        on fits.n_prompts = weighted.n_prompts
),

resampled as (
    select
        group_id,
        n_prompts,
        n_prompts_with_spikes,
        resampled_correlation(weights, positions, u, v, uu, vv, uv) as spearman,
        resampled_auc(weights, calm_below_spikes, spikes, spikes_below_calm, calm, auc) as auc,
        resampled_share(weights, largest_spikes, largest)
        / nullif(resampled_share(weights, spikes, positions), 0) as top_decile_lift
    from resamples
),

intervals as (
    select
        group_id,
        bootstrap_interval(spearman, any_value(n_prompts)) as spearman,
        case
            when any_value(n_prompts_with_spikes) >= 3 then bootstrap_interval(auc, any_value(n_prompts))
        end as auc,
        case
            when any_value(n_prompts_with_spikes) >= 3 then bootstrap_interval(top_decile_lift, any_value(n_prompts))
        end as top_decile_lift
    from resampled
    group by group_id
),

named as (
    select
        *,
        cast(group_id // 4 // 65536 as integer) as variant_id,
        cast(group_id // 4 % 65536 as smallint) as layer,
        case group_id // 2 % 2 when 1 then 'mlp' else 'attn' end as sublayer,
        case group_id % 2 when 1 then 'normed' else 'raw' end as lens
    from fits
)

select
    variants.model,
    variants.recipe,
    named.layer,
    named.sublayer,
    named.lens,
    named.n,
    named.n_prompts,
    named.n_spikes,
    named.spearman,
    case when named.spearman is not null then intervals.spearman[1] end as spearman_low,
    case when named.spearman is not null then intervals.spearman[2] end as spearman_high,
    named.pearson_log10,
    named.auc,
    within_0_and_1(intervals.auc[1]) as auc_low,
    within_0_and_1(intervals.auc[2]) as auc_high,
    named.top_decile_lift,
    case when named.top_decile_lift is not null then intervals.top_decile_lift[1] end as top_decile_lift_low,
    case when named.top_decile_lift is not null then intervals.top_decile_lift[2] end as top_decile_lift_high
from named
inner join variants
    on named.variant_id = variants.variant_id
left join intervals
    on named.group_id = intervals.group_id
order by
    variants.model asc,
    variants.recipe asc,
    named.lens asc,
    named.auc desc nulls last,
    named.layer asc,
    named.sublayer asc
