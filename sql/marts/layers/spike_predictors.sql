-- How well the local Var_p(Δz) of a sublayer predicts KL spikes at the output.
-- grain: one row per model × recipe × layer × sublayer × lens.
-- key: model, recipe, layer, sublayer, lens
-- inputs: spike_sums
-- how to read: a spike is a position whose output KL(dense‖pruned), teacher forced at the reference temperature, is
--   above the variant's own 90th percentile. auc is the probability that this sublayer's Var_p(Δz) is larger at a spike
--   than elsewhere; 0.5 is useless. lift is how many times more frequent spikes are in the tenth of the positions with
--   the largest Var_p(Δz) than everywhere. spearman is the rank correlation of Var_p(Δz) with the output KL, which is
--   ranked among all outputs of the variant. *_low and *_high are 95 % intervals by Student's t with prompts as the
--   independent units, because the positions of one prompt are not independent. They are first-order approximations
--   that take ranks and thresholds as given: on Fisher's scale for spearman and auc, on a logarithmic scale for the
--   lift. They are not corrected for the number of sublayers. With too little data, numbers are NULL: spearman below 10
--   positions, auc and lift below 3 spikes. Bounds are NULL below 2 prompts (for auc and lift below 3 prompts with
--   spikes), if no prompt deviates, at an auc of 0 or 1, and at a lift of 0. The dense recipe and sublayers that the
--   recipe did not touch are excluded.
-- reason: q01 ranks sublayers by it, q42 compares depths. The view is long because three figures have intervals.
-- columns:
--   n_prompts: Prompts that they come from [prompts]
--   n_spikes: Positions whose output KL is above the variant's 90th percentile [positions]
--   spearman: Rank correlation of Var_p(Δz) here and the KL at the output; NULL below 10 positions [-1 to 1]
--   spearman_low: Lower end of its 95 % interval, Student's t over prompts on Fisher's scale [-1 to 1]
--   auc: Chance that Var_p(Δz) is larger at a spike than elsewhere; 0.5 is useless [probability]
--   auc_low: Lower end of its 95 % interval, Student's t over prompts on Fisher's scale [probability]
--   top_decile_lift: Rate of spikes in the tenth with the largest Var_p(Δz) over their rate everywhere [ratio]
--   top_decile_lift_low: Lower end of its 95 % interval, Student's t over prompts on a logarithmic scale [ratio]
--   top_decile_var_p_dz: Smallest Var_p(Δz) in that tenth [logit²]
with

-- A CTE that is read twice is computed once.
sums as (
    select * from spike_sums
),

fits as (
    select
        model, recipe, layer, sublayer, lens,
        cast(sum(n) as bigint) as n,
        count(*) as n_prompts,
        cast(sum(spikes) as bigint) as n_spikes,
        count_if(spikes > 0) as n_prompts_with_spikes,
        case
            when sum(n) >= 10 then correlation_of_sums(sum(n), sum(u), sum(v), sum(uu), sum(vv), sum(uv))
        end as spearman,
        case
            when sum(spikes) >= 3 and sum(calm) >= 3 then sum(calm_below_spikes) / (sum(spikes) * sum(calm))
        end as auc,
        case
            when sum(spikes) >= 3 and sum(calm) >= 3
                then sum(largest_spikes) / nullif(sum(largest), 0) / (sum(spikes) / sum(n))
        end as top_decile_lift,
        min(largest_from) as top_decile_var_p_dz,
        sum(spikes) as all_spikes,
        sum(calm) as all_calm,
        sum(u) / sum(n) as u_mean,
        sum(v) / sum(n) as v_mean,
        sum(uu) - sum(u) ** 2 / sum(n) as all_uu,
        sum(vv) - sum(v) ** 2 / sum(n) as all_vv,
        sum(uv) - sum(u) * sum(v) / sum(n) as all_uv,
        sum(largest) as all_largest,
        sum(largest_spikes) as all_largest_spikes
    from sums
    group by all
),

spreads as (
    select
        fits.model, fits.recipe, fits.layer, fits.sublayer, fits.lens,
        half_width_over_clusters(
            influence_on_correlation(
                sums.uv - fits.u_mean * sums.v - fits.v_mean * sums.u + sums.n * fits.u_mean * fits.v_mean,
                sums.uu - 2 * fits.u_mean * sums.u + sums.n * fits.u_mean ** 2,
                sums.vv - 2 * fits.v_mean * sums.v + sums.n * fits.v_mean ** 2,
                fits.all_uv,
                fits.all_uu,
                fits.all_vv
            )
        ) as spearman,
        half_width_over_clusters(
            influence_on_auc(
                sums.calm_below_spikes, sums.spikes, sums.spikes_below_calm, sums.calm, fits.auc, fits.all_spikes,
                fits.all_calm
            )
        ) as auc,
        -- The logarithm of the ratio of two rates.
        half_width_over_clusters(
            sums.largest_spikes / nullif(fits.all_largest_spikes, 0)
            - sums.largest / nullif(fits.all_largest, 0)
            - sums.spikes / nullif(fits.all_spikes, 0)
            + sums.n / fits.n
        ) as log_lift
    from fits
    inner join sums using (model, recipe, layer, sublayer, lens)
    group by all
),

intervals as (
    select
        fits.*,
        interval_of_correlation(fits.spearman, spreads.spearman) as spearman_ends,
        case when fits.n_prompts_with_spikes >= 3 then interval_of_auc(fits.auc, spreads.auc) end as auc_ends,
        case when fits.n_prompts_with_spikes >= 3 then spreads.log_lift end as log_lift_half_width
    from fits
    left join spreads using (model, recipe, layer, sublayer, lens)
)

select
    model, recipe, layer, sublayer, lens, n, n_prompts, n_spikes, spearman,
    spearman_ends[1] as spearman_low,
    spearman_ends[2] as spearman_high,
    auc,
    auc_ends[1] as auc_low,
    auc_ends[2] as auc_high,
    top_decile_lift,
    top_decile_lift * exp(-log_lift_half_width) as top_decile_lift_low,
    top_decile_lift * exp(log_lift_half_width) as top_decile_lift_high,
    top_decile_var_p_dz
from intervals
