-- At which relative depth do local logit shifts predict KL spikes, and do other models agree?
-- grain: one row per model × lens × sublayer × layer.
-- key: model, lens, sublayer, layer
-- across: models
-- inputs: pruned_variants, spike_predictors, stg_models
-- how to read: the numbers are those of q01, averaged over the pruned and quantized variants that have an auc in every
--   sublayer, so each depth is a mean over the same variants. Each model counts the recipes that most other models
--   have, too. The interval is the mean of the variants' intervals, not corrected for the number of sublayers. It is
--   rather too wide, because the errors of variants are not fully correlated. elsewhere is the mean of the other models
--   at the same depth, interpolated linearly between their layers; NULL with one model.
-- reason: a depth and a variance from which on spikes occur are due to pruning if all models share them, else to the
--   model.
-- columns:
--   relative_depth: Place among the layers [0 first to 1 last] = layer/(layers − 1)
--   recipes: Recipes of the variants that the means are over [labels]
--   auc_low: Lower end of its 95 % interval; NULL if a variant has none [probability]
--   is_among_best: Whether auc_high reaches the largest auc_low of the model and lens
--   top_decile_var_p_dz: Smallest Var_p(Δz) in the tenth of the positions where it is largest, geometric mean [logit²]
--   auc_elsewhere: The other models' auc at this depth [probability]
--   best_elsewhere: Share of the other models whose sublayer is among the best there [share]
--   var_p_dz_ratio: top_decile_var_p_dz over the geometric mean of the other models' [ratio]
with complete as (
    select
        spike_predictors.*,
        stg_models.layers - 1 as last_layer
    from spike_predictors
    inner join stg_models using (model)
    semi join pruned_variants using (model, recipe)
    qualify
        count(spike_predictors.auc) over (
            partition by spike_predictors.model, spike_predictors.recipe, spike_predictors.lens
        ) = 2 * stg_models.layers
),

counted as (
    select
        *,
        count(distinct model) over (partition by recipe, lens) as n_models
    from complete
),

shared as (
    select *
    from counted
    qualify n_models = max(n_models) over (partition by model, lens)
),

predictors as (
    select
        model, lens, sublayer, layer, last_layer,
        layer / greatest(last_layer, 1) as relative_depth,
        string_agg(recipe, ', ' order by recipe) as recipes,
        avg(auc) as auc,
        case when count(auc_low) = count(*) then avg(auc_low) end as auc_low,
        case when count(auc_high) = count(*) then avg(auc_high) end as auc_high,
        avg(auc_high) >= max(avg(auc_low)) over (partition by model, lens) as is_among_best,
        geometric_mean_of(top_decile_var_p_dz) as top_decile_var_p_dz
    from shared
    group by model, lens, sublayer, layer, last_layer
),

-- The weights of both neighbours in another model add up to 1.
neighbours as (
    select
        other.*,
        own.model as own_model,
        own.layer as own_layer,
        1 - abs(other.layer - own.relative_depth * other.last_layer) as weight
    from predictors as own
    inner join predictors as other
        on own.model <> other.model and own.lens = other.lens and own.sublayer = other.sublayer
    where weight > 0
),

elsewhere as (
    select
        own_model, lens, sublayer, own_layer,
        sum(weight * auc) / sum(weight) as auc,
        sum(weight * cast(is_among_best as integer)) / sum(weight) as best,
        exp(sum(weight * ln(nullif(top_decile_var_p_dz, 0))) / sum(weight)) as var_p_dz
    from neighbours
    group by all
)

select
    own.model, own.lens, own.sublayer, own.layer, own.relative_depth, own.recipes, own.auc, own.auc_low, own.auc_high,
    own.is_among_best, own.top_decile_var_p_dz,
    elsewhere.auc as auc_elsewhere,
    elsewhere.best as best_elsewhere,
    own.top_decile_var_p_dz / elsewhere.var_p_dz as var_p_dz_ratio
from predictors as own
left join elsewhere
    on
        own.model = elsewhere.own_model and own.lens = elsewhere.lens and own.sublayer = elsewhere.sublayer
        and own.layer = elsewhere.own_layer
order by own.lens, own.sublayer, own.model, own.layer
