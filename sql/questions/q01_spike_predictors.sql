-- Which layers' Var_p(Δz), measured locally, predict KL spikes at the output?
-- grain: one row per model × recipe × layer × sublayer × lens.
-- key: model, recipe, layer, sublayer, lens
-- inputs: stg_layer_transitions, reference_steps
-- how to read: a spike is a position whose output KL(dense‖pruned), teacher forced at the reference temperature, lies
--   above the variant's own 90th percentile. auc is the chance that this sublayer's Var_p(Δz) is larger at a spike than
--   elsewhere (0.5 = no use); auc_low and auc_high bound it with 95 % over prompts as blocks. top_decile_lift is the
--   rate of spikes among the tenth of positions with the largest Var_p(Δz) over their rate everywhere. spearman and
--   pearson_log10 relate Var_p(Δz) to the output KL itself. NULL says that the data cannot carry the figure:
--   correlations below 10 positions, auc and lift below 3 spikes, bounds below 5 prompts or 3 prompts with spikes.
--   Untouched sublayers and the dense recipe are left out.
-- reason: a sublayer whose local variance foretells the spikes is where pruning hurts generation, and a cheap probe.
-- columns:
--   n: Positions [positions]
--   n_prompts: Prompts that they come from [prompts]
--   n_spikes: Positions whose output KL is above the variant's 90th percentile [positions]
--   spearman: Rank correlation of Var_p(Δz) here and the KL at the output; NULL below 10 positions [-1 to 1]
--   pearson_log10: Correlation of their logarithms; NULL below 10 positions [-1 to 1]
--   auc: Chance that Var_p(Δz) is larger at a spike than elsewhere; 0.5 is no use [probability]
--   auc_low: Lower end of the 95 % interval of auc, prompts as blocks [probability]
--   auc_high: Upper end of the 95 % interval of auc, prompts as blocks [probability]
--   top_decile_lift: Rate of spikes in the tenth with the largest Var_p(Δz) over their rate everywhere [ratio]
with

outputs as (
    select
        model,
        recipe,
        prompt_id,
        position,
        temperature,
        kl_dense_pruned_nats as output_kl_nats
    from reference_steps
    where trajectory = 'teacher_forced' and recipe <> 'dense'
),

thresholds as (
    select
        model,
        recipe,
        quantile_cont(output_kl_nats, 0.9) as spike_threshold_nats
    from outputs
    group by model, recipe
),

positions as (
    select
        outputs.model,
        outputs.recipe,
        outputs.prompt_id,
        transitions.layer,
        transitions.sublayer,
        transitions.lens,
        transitions.var_p_dz,
        outputs.output_kl_nats,
        outputs.output_kl_nats > thresholds.spike_threshold_nats as is_spike
    from stg_layer_transitions as transitions
    inner join outputs
        on
            transitions.model = outputs.model
            and transitions.recipe = outputs.recipe
            and transitions.prompt_id = outputs.prompt_id
            and transitions.position = outputs.position
            and transitions.temperature = outputs.temperature
    inner join thresholds
        on transitions.model = thresholds.model and transitions.recipe = thresholds.recipe
    where transitions.scope = 'local' and transitions.is_changed
),

ranked as (
    select
        *,
        count(*) over (partition by row(model, recipe, layer, sublayer, lens)) as group_size,
        midrank(var_p_dz, row(model, recipe, layer, sublayer, lens)) as rank_var,
        midrank(output_kl_nats, row(model, recipe, layer, sublayer, lens)) as rank_kl,
        midrank(var_p_dz, row(model, recipe, layer, sublayer, lens, is_spike)) as rank_var_of_class
    from positions
),

fits as (
    select
        model,
        recipe,
        layer,
        sublayer,
        lens,
        count(*) as n,
        count(distinct prompt_id) as n_prompts,
        count_if(is_spike) as n_spikes,
        correlation(rank_var, rank_kl) as spearman,
        correlation(log10_positive(var_p_dz), log10_positive(output_kl_nats)) as pearson_log10,
        auc_from_midranks(rank_var, is_spike) as auc,
        avg(cast(is_spike as integer)) filter (where rank_var > 0.9 * group_size)
        / nullif(avg(cast(is_spike as integer)), 0) as top_decile_lift
    from ranked
    group by model, recipe, layer, sublayer, lens
),

prompts as (
    select
        model,
        recipe,
        layer,
        sublayer,
        lens,
        prompt_id,
        count_if(is_spike) as spikes,
        count_if(not is_spike) as calm,
        coalesce(sum(rank_var - rank_var_of_class) filter (where is_spike), 0) as above,
        coalesce(sum(rank_var - rank_var_of_class) filter (where not is_spike), 0) as below
    from ranked
    group by model, recipe, layer, sublayer, lens, prompt_id
),

influences as (
    select
        prompts.model,
        prompts.recipe,
        prompts.layer,
        prompts.sublayer,
        prompts.lens,
        prompts.spikes,
        auc_influence(
            prompts.spikes,
            prompts.calm,
            prompts.above,
            prompts.below,
            fits.n_spikes,
            fits.n - fits.n_spikes,
            fits.auc
        ) as influence
    from prompts
    inner join fits
        on
            prompts.model = fits.model
            and prompts.recipe = fits.recipe
            and prompts.layer = fits.layer
            and prompts.sublayer = fits.sublayer
            and prompts.lens = fits.lens
    where fits.auc is not null
),

bounds as (
    select
        model,
        recipe,
        layer,
        sublayer,
        lens,
        case when count_if(spikes > 0) >= 3 then half_width_over_prompts(influence) end as half_width
    from influences
    group by model, recipe, layer, sublayer, lens
)

select
    fits.model,
    fits.recipe,
    fits.layer,
    fits.sublayer,
    fits.lens,
    fits.n,
    fits.n_prompts,
    fits.n_spikes,
    fits.spearman,
    fits.pearson_log10,
    fits.auc,
    case when bounds.half_width is not null then greatest(fits.auc - bounds.half_width, 0) end as auc_low,
    case when bounds.half_width is not null then least(fits.auc + bounds.half_width, 1) end as auc_high,
    case when fits.auc is not null then fits.top_decile_lift end as top_decile_lift
from fits
left join bounds
    on
        fits.model = bounds.model
        and fits.recipe = bounds.recipe
        and fits.layer = bounds.layer
        and fits.sublayer = bounds.sublayer
        and fits.lens = bounds.lens
order by fits.model asc, fits.recipe asc, fits.lens asc, fits.auc desc nulls last, fits.layer asc, fits.sublayer asc
