-- Does the dense model's margin or entropy predict which tokens pruning flips?
-- grain: one row per model × recipe × predictor.
-- key: model, recipe, predictor
-- inputs: decoding_at_reference
-- how to read: a teacher-forced step is flipped if the pruned model would choose another token in the dense model's
--   text. auc is the probability that a flipped step has the smaller margin (predictor `margin`) or the larger entropy
--   (`entropy`) than an unchanged one; 0.5 is useless. auc_low and auc_high are a 95 % interval with prompts as the
--   independent units, as in q01. NULL if there is too little data: auc below 3 flips or 3 unchanged steps, its bounds
--   below 3 prompts with a flip and for an auc of 0 or 1. The dense recipe is excluded.
-- reason: if the margin predicts flips, the dense model alone says which answers are at risk, before any pruning.
-- columns:
--   predictor: margin, the dense logit of the first token minus that of the second, or entropy of the dense p
--   n: Teacher-forced steps [steps]
--   n_prompts: Prompts that they come from [prompts]
--   n_flips: Steps at which the pruned model would choose another token [steps]
--   auc: Chance that a flipped step has the smaller margin or the larger entropy than a kept one [probability]
--   auc_low: Lower end of its 95 % interval, Student's t over prompts on Fisher's scale [probability]
with

-- Row i gets entry i of every unnested list.
scored as (
    select
        model, recipe, prompt_id,
        unnest(['margin', 'entropy']) as predictor,
        unnest([-margin_dense, entropy_dense_nats]) as score,
        not is_same_token as is_flip
    from decoding_at_reference
    where trajectory = 'teacher_forced' and recipe <> 'dense'
),

ranked as (
    select
        *,
        count_below(score, row(model, recipe, predictor)) as steps_below,
        sum_below(cast(not is_flip as integer), score, row(model, recipe, predictor)) as kept_below
    from scored
),

prompt_sums as (
    select
        model, recipe, predictor, prompt_id,
        cast(count_if(is_flip) as double) as flips,
        cast(count_if(not is_flip) as double) as kept,
        coalesce(sum(kept_below) filter (where is_flip), 0) as kept_below_flips,
        coalesce(sum(steps_below - kept_below) filter (where not is_flip), 0) as flips_below_kept
    from ranked
    group by all
),

fits as (
    select
        model, recipe, predictor,
        cast(sum(flips + kept) as bigint) as n,
        count(*) as n_prompts,
        cast(sum(flips) as bigint) as n_flips,
        count_if(flips > 0) as n_prompts_with_flips,
        case
            when sum(flips) >= 3 and sum(kept) >= 3 then sum(kept_below_flips) / (sum(flips) * sum(kept))
        end as auc,
        sum(flips) as all_flips,
        sum(kept) as all_kept
    from prompt_sums
    group by all
),

spreads as (
    select
        fits.model, fits.recipe, fits.predictor,
        half_width_over_clusters(
            influence_on_auc(
                sums.kept_below_flips, sums.flips, sums.flips_below_kept, sums.kept, fits.auc, fits.all_flips,
                fits.all_kept
            )
        ) as half_width
    from fits
    inner join prompt_sums as sums using (model, recipe, predictor)
    where fits.auc is not null and fits.n_prompts_with_flips >= 3
    group by all
)

select
    fits.model, fits.recipe, fits.predictor, fits.n, fits.n_prompts, fits.n_flips, fits.auc,
    interval_of_auc(fits.auc, spreads.half_width)[1] as auc_low,
    interval_of_auc(fits.auc, spreads.half_width)[2] as auc_high
from fits
left join spreads using (model, recipe, predictor)
order by fits.model, fits.recipe, fits.predictor
