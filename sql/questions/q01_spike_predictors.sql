-- Which layers' Var_p(Δz), measured locally, predict KL spikes at the output?
-- grain: one row per model × recipe × layer × sublayer × lens.
-- key: model, recipe, layer, sublayer, lens
-- inputs: spike_sums
-- how to read: a spike is a position whose output KL(dense‖pruned), teacher forced at the reference temperature, is
--   above the variant's own 90th percentile. auc is the probability that this sublayer's Var_p(Δz) is larger at a spike
--   than elsewhere (0.5 = useless), lift is how many times more frequent spikes are where it is largest, spearman and
--   pearson_log10 are its correlations with the output KL itself (ranked among all outputs of the variant). *_low and
--   *_high are a 95 % interval that resamples whole prompts, because the positions of one prompt are not independent:
--   percentiles of 400 fixed resamples, each computed from sums over prompts with ranks and thresholds as they are over
--   all prompts. Resamples that are ranked anew have ends within a tenth of the interval's width of these from 12
--   prompts on, within a fifth at 6. NULL where there is too little data: correlations below 10 positions, auc and lift
--   below 3 spikes, bounds below 5 prompts (of auc and lift below 3 prompts with spikes) or where no resample differs.
--   The dense recipe and sublayers that the recipe did not touch are excluded.
-- reason: a sublayer whose local variance predicts the spikes is where pruning hurts generation, and serves as a cheap
--   probe. The view is a little long because three figures share one resampling.
-- columns:
--   n: Positions with a local shift and an output [positions]
--   n_prompts: Prompts that they come from [prompts]
--   n_spikes: Positions whose output KL is above the variant's 90th percentile [positions]
--   spearman: Rank correlation of Var_p(Δz) here and the KL at the output; NULL below 10 positions [-1 to 1]
--   spearman_low: Lower end of its 95 % interval over prompts [-1 to 1]
--   spearman_high: Upper end of its 95 % interval over prompts [-1 to 1]
--   pearson_log10: Correlation of their logarithms; NULL below 10 positions [-1 to 1]
--   auc: Chance that Var_p(Δz) is larger at a spike than elsewhere; 0.5 is useless [probability]
--   auc_low: Lower end of its 95 % interval over prompts [probability]
--   auc_high: Upper end of its 95 % interval over prompts [probability]
--   top_decile_lift: Rate of spikes in the tenth with the largest Var_p(Δz) over their rate everywhere [ratio]
--   top_decile_lift_low: Lower end of its 95 % interval over prompts [ratio]
--   top_decile_lift_high: Upper end of its 95 % interval over prompts [ratio]
with

fits as (
    select
        model,
        recipe,
        layer,
        sublayer,
        lens,
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
        list(positions order by prompt_id) as positions,
        list(spikes order by prompt_id) as spikes,
        list(calm order by prompt_id) as calm,
        list(calm_below_spikes order by prompt_id) as calm_below_spikes,
        list(spikes_below_calm order by prompt_id) as spikes_below_calm,
        list(u order by prompt_id) as u,
        list(v order by prompt_id) as v,
        list(uu order by prompt_id) as uu,
        list(vv order by prompt_id) as vv,
        list(uv order by prompt_id) as uv,
        list(largest order by prompt_id) as largest,
        list(largest_spikes order by prompt_id) as largest_spikes
    from spike_sums
    group by model, recipe, layer, sublayer, lens
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

-- Unnesting the weights avoids copying the lists, which a join with every resample would do.
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
        model,
        recipe,
        layer,
        sublayer,
        lens,
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
        model,
        recipe,
        layer,
        sublayer,
        lens,
        bootstrap_interval(spearman, any_value(n_prompts)) as spearman,
        case
            when any_value(n_prompts_with_spikes) >= 3 then bootstrap_interval(auc, any_value(n_prompts))
        end as auc,
        case
            when any_value(n_prompts_with_spikes) >= 3 then bootstrap_interval(top_decile_lift, any_value(n_prompts))
        end as top_decile_lift
    from resampled
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
    case when fits.spearman is not null then intervals.spearman[1] end as spearman_low,
    case when fits.spearman is not null then intervals.spearman[2] end as spearman_high,
    fits.pearson_log10,
    fits.auc,
    within_0_and_1(intervals.auc[1]) as auc_low,
    within_0_and_1(intervals.auc[2]) as auc_high,
    fits.top_decile_lift,
    case when fits.top_decile_lift is not null then intervals.top_decile_lift[1] end as top_decile_lift_low,
    case when fits.top_decile_lift is not null then intervals.top_decile_lift[2] end as top_decile_lift_high
from fits
left join intervals
    on
        fits.model = intervals.model
        and fits.recipe = intervals.recipe
        and fits.layer = intervals.layer
        and fits.sublayer = intervals.sublayer
        and fits.lens = intervals.lens
order by
    fits.model asc,
    fits.recipe asc,
    fits.lens asc,
    fits.auc desc nulls last,
    fits.layer asc,
    fits.sublayer asc
