-- At which relative depth do local logit shifts predict KL spikes, and do other models agree?
-- grain: one row per model × lens × sublayer × layer.
-- key: model, lens, sublayer, layer
-- across: models
-- inputs: pruned_variants, spike_predictors, stg_models
-- how to read: q01 has auc and lift by variant; here they are means over the pruned and quantized variants with
--   an auc in every sublayer, so that each depth is a mean over the same variants. Of these each model counts the
--   recipes that most other models have too. The interval is the mean of theirs: too wide, if anything, because
--   variants that read the same prompts err together, but not fully. elsewhere is the mean of all other models at the
--   same relative depth, interpolated linearly between two layers. The interval of auc_difference takes models as
--   independent (MOVER). NULL with one model. Nothing is corrected for the number of sublayers.
-- reason: a predictor that works at the same depth and from the same variance on in every model is a property of
--   pruning; otherwise, of the model.
-- columns:
--   relative_depth: Place among the layers [0 first to 1 last] = layer/(layers − 1)
--   n_prompts: Prompts of the variant with fewest [prompts]
--   n_variants: Variants that the means are over [variants]
--   recipes: Their recipes [labels]
--   auc: Chance that Var_p(Δz) is larger at a spike than elsewhere, mean over variants; 0.5 is useless [probability]
--   auc_low: Lower end of its 95 % interval, mean over variants; NULL where one has none [probability]
--   auc_high: Upper end of its 95 % interval, mean over variants; NULL where one has none [probability]
--   is_among_best: Whether auc_high reaches the largest auc_low of the model and lens
--   top_decile_lift: Rate of spikes in the tenth with the largest Var_p(Δz) over their rate everywhere, mean [ratio]
--   top_decile_var_p_dz: The Var_p(Δz) from which on a position is in that tenth, geometric mean [logit²]
--   n_other_models: Other models with this sublayer [models]
--   auc_elsewhere: The other models' auc at this depth [probability]
--   auc_difference: How much better this model's sublayer predicts [probability] = auc − auc_elsewhere
--   auc_difference_low: Lower end of its 95 % interval [probability]
--   auc_difference_high: Upper end of its 95 % interval [probability]
--   best_elsewhere: Share of the other models whose sublayer is among the best there [share]
--   var_p_dz_ratio: top_decile_var_p_dz over the geometric mean of the other models' at this depth [ratio]
with

answers as (
    select
        spike_predictors.*,
        stg_models.layers - 1 as last_layer,
        count(spike_predictors.auc) over variant = 2 * stg_models.layers as is_whole
    from spike_predictors
    inner join stg_models using (model)
    semi join pruned_variants using (model, recipe)
    window variant as (
        partition by spike_predictors.model, spike_predictors.recipe, spike_predictors.lens
    )
),

counted as (
    select
        *,
        count(distinct model) over (partition by recipe, lens) as n_models
    from answers
    where is_whole
),

shared as (
    select *
    from counted
    qualify n_models = max(n_models) over (partition by model, lens)
),

means as (
    select
        model,
        lens,
        sublayer,
        layer,
        last_layer,
        layer / greatest(last_layer, 1) as relative_depth,
        min(n_prompts) as n_prompts,
        count(*) as n_variants,
        string_agg(recipe, ', ' order by recipe) as recipes,
        avg(auc) as auc,
        case when count(auc_low) = count(*) then avg(auc_low) end as auc_low,
        case when count(auc_high) = count(*) then avg(auc_high) end as auc_high,
        avg(top_decile_lift) as top_decile_lift,
        geometric_mean_of(top_decile_var_p_dz) as top_decile_var_p_dz
    from shared
    group by model, lens, sublayer, layer, last_layer
),

predictors as (
    select
        *,
        auc_high >= max(auc_low) over (partition by model, lens) as is_among_best
    from means
),

-- The weights of both neighbours in another model add up to 1.
neighbours as (
    select
        own.model,
        own.lens,
        own.sublayer,
        own.layer,
        other.model as other_model,
        other.auc,
        other.auc_low,
        other.auc_high,
        other.is_among_best,
        ln(nullif(other.top_decile_var_p_dz, 0)) as log_var_p_dz,
        1 - abs(other.layer - own.relative_depth * other.last_layer) as weight
    from predictors as own
    inner join predictors as other
        on own.model <> other.model and own.lens = other.lens and own.sublayer = other.sublayer
    where weight > 0
),

elsewhere as (
    select
        model,
        lens,
        sublayer,
        layer,
        count(distinct other_model) as n_models,
        sum(weight * auc) / sum(weight) as auc,
        sum(weight * auc_low) / sum(weight) as auc_low,
        sum(weight * auc_high) / sum(weight) as auc_high,
        sum(weight * cast(is_among_best as integer)) / sum(weight) as best,
        exp(sum(weight * log_var_p_dz) / sum(weight)) as var_p_dz
    from neighbours
    group by model, lens, sublayer, layer
),

compared as (
    select
        predictors.*,
        coalesce(elsewhere.n_models, 0) as n_other_models,
        elsewhere.auc as auc_elsewhere,
        elsewhere.best as best_elsewhere,
        predictors.top_decile_var_p_dz / elsewhere.var_p_dz as var_p_dz_ratio,
        interval_of_difference(
            predictors.auc,
            predictors.auc_low,
            predictors.auc_high,
            elsewhere.auc,
            elsewhere.auc_low,
            elsewhere.auc_high,
            0
        ) as difference_ends
    from predictors
    left join elsewhere using (model, lens, sublayer, layer)
)

select
    model,
    lens,
    sublayer,
    layer,
    relative_depth,
    n_prompts,
    n_variants,
    recipes,
    auc,
    auc_low,
    auc_high,
    is_among_best,
    top_decile_lift,
    top_decile_var_p_dz,
    n_other_models,
    auc_elsewhere,
    auc - auc_elsewhere as auc_difference,
    difference_ends[1] as auc_difference_low,
    difference_ends[2] as auc_difference_high,
    best_elsewhere,
    var_p_dz_ratio
from compared
order by lens, sublayer, model, layer
