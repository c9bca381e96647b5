-- How well each sublayer's Var_p(Δz) predicts a KL spike, and the ROC curves of the best sublayers.
-- grain: one row per model × lens × recipe × sublayer × layer, and one per point of a curve.
-- inputs: q01_spike_predictors, decoding_at_reference, stg_layer_transitions
-- how to read: in rows of a curve the area is NULL. A curve has at most about 60 of its thresholds. left_out names the
--   variants of the model that have no area.
with answers as (
    select
        *,
        row_number() over (partition by model, recipe, lens, sublayer order by auc desc, layer asc) = 1 as is_best
    from q01_spike_predictors
    where auc is not null
),

left_out as (
    select
        model, lens,
        string_agg(distinct recipe, ', ' order by recipe) as recipes
    from q01_spike_predictors
    anti join answers using (model, recipe, lens)
    group by all
),

outputs as (
    select
        model, recipe, prompt_id, position, temperature,
        kl_dense_pruned_nats > quantile_cont(kl_dense_pruned_nats, 0.9) over (partition by model, recipe) as is_spike
    from decoding_at_reference
    where trajectory = 'teacher_forced' and recipe <> 'dense'
),

-- One row per threshold: `passed` counts ties together.
thresholds as (
    select
        transitions.model, transitions.recipe, transitions.lens, transitions.layer, transitions.sublayer,
        transitions.var_p_dz,
        count_if(outputs.is_spike) over above / count_if(outputs.is_spike) over everything as true_positive_rate,
        count_if(not outputs.is_spike) over above
        / count_if(not outputs.is_spike) over everything as false_positive_rate,
        count(*) over above as passed,
        count(*) over everything as n
    from stg_layer_transitions as transitions
    inner join outputs using (model, recipe, prompt_id, position, temperature)
    semi join answers as best
        on
            best.is_best and transitions.model = best.model and transitions.recipe = best.recipe
            and transitions.lens = best.lens and transitions.layer = best.layer and transitions.sublayer = best.sublayer
    where transitions.scope = 'local' and transitions.is_changed
    window
        everything as (
            partition by
                transitions.model, transitions.recipe, transitions.lens, transitions.layer, transitions.sublayer
        ),
        above as (everything order by transitions.var_p_dz desc)
),

curves as (
    select distinct model, recipe, lens, layer, sublayer, true_positive_rate, false_positive_rate
    from thresholds
    qualify passed = n or 60 * passed // n > 60 * lag(passed, 1, 0) over (
        partition by model, recipe, lens, layer, sublayer order by passed
    ) // n
)

select
    answers.model, answers.recipe, answers.lens, answers.layer, answers.sublayer, answers.n_prompts, answers.n_spikes,
    answers.auc, answers.auc_low, answers.auc_high, answers.is_best,
    left_out.recipes as left_out
from answers
left join left_out using (model, lens)

union all by name

select
    *,
    true as is_best
from curves
order by
    model asc, lens desc, recipe asc, sublayer asc, layer asc, false_positive_rate asc nulls first,
    true_positive_rate asc
