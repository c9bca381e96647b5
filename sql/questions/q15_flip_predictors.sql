-- Does the dense model's margin or entropy foretell which tokens pruning flips?
-- grain: one row per model × recipe × predictor.
-- key: model, recipe, predictor
-- inputs: reference_steps
-- how to read: every teacher-forced step asks whether the pruned model would choose another token in the dense model's
--   text. auc is the chance that a flipped step has the smaller margin (predictor `margin`) or the larger entropy
--   (`entropy`) than a kept one; 0.5 = no use. auc_low and auc_high bound it (95 %, prompts as blocks). NULL says
--   that the data cannot carry it: auc below 3 flips or 3 kept steps, its bounds below 5 prompts or 3 prompts with a
--   flip. The dense recipe is left out.
-- reason: if the margin foretells flips, the dense model alone says which answers are at risk, before any pruning.
-- columns:
--   predictor: margin, the dense logit of the first token minus that of the second, or entropy of the dense p
--   n: Teacher-forced steps [steps]
--   n_prompts: Prompts that they come from [prompts]
--   n_flips: Steps at which the pruned model would choose another token [steps]
--   auc: Chance that a flipped step has the smaller margin or the larger entropy than a kept one [probability]
--   auc_low: Lower end of the 95 % interval of auc, prompts as blocks [probability]
--   auc_high: Upper end of the 95 % interval of auc, prompts as blocks [probability]
with

scored as (
    select
        model,
        recipe,
        prompt_id,
        'margin' as predictor,
        -margin_dense as score,
        not is_same_token as is_flip
    from reference_steps
    where trajectory = 'teacher_forced' and recipe <> 'dense'

    union all

    select
        model,
        recipe,
        prompt_id,
        'entropy' as predictor,
        entropy_dense_nats as score,
        not is_same_token as is_flip
    from reference_steps
    where trajectory = 'teacher_forced' and recipe <> 'dense'
),

ranked as (
    select
        model,
        recipe,
        prompt_id,
        predictor,
        is_flip,
        midrank(score, row(model, recipe, predictor)) as rank_score,
        midrank(score, row(model, recipe, predictor, is_flip)) as rank_score_of_class
    from scored
),

fits as (
    select
        model,
        recipe,
        predictor,
        count(*) as n,
        count(distinct prompt_id) as n_prompts,
        count_if(is_flip) as n_flips,
        auc_from_midranks(rank_score, is_flip) as auc
    from ranked
    group by model, recipe, predictor
),

prompts as (
    select
        model,
        recipe,
        predictor,
        prompt_id,
        count_if(is_flip) as flips,
        count_if(not is_flip) as kept,
        coalesce(sum(rank_score - rank_score_of_class) filter (where is_flip), 0) as above,
        coalesce(sum(rank_score - rank_score_of_class) filter (where not is_flip), 0) as below
    from ranked
    group by model, recipe, predictor, prompt_id
),

influences as (
    select
        prompts.model,
        prompts.recipe,
        prompts.predictor,
        prompts.flips,
        auc_influence(
            prompts.flips,
            prompts.kept,
            prompts.above,
            prompts.below,
            fits.n_flips,
            fits.n - fits.n_flips,
            fits.auc
        ) as influence
    from prompts
    inner join fits
        on
            prompts.model = fits.model
            and prompts.recipe = fits.recipe
            and prompts.predictor = fits.predictor
    where fits.auc is not null
),

bounds as (
    select
        model,
        recipe,
        predictor,
        case when count_if(flips > 0) >= 3 then half_width_over_prompts(influence) end as half_width
    from influences
    group by model, recipe, predictor
)

select
    fits.model,
    fits.recipe,
    fits.predictor,
    fits.n,
    fits.n_prompts,
    fits.n_flips,
    fits.auc,
    case when bounds.half_width is not null then greatest(fits.auc - bounds.half_width, 0) end as auc_low,
    case when bounds.half_width is not null then least(fits.auc + bounds.half_width, 1) end as auc_high
from fits
left join bounds
    on
        fits.model = bounds.model
        and fits.recipe = bounds.recipe
        and fits.predictor = bounds.predictor
order by fits.model, fits.recipe, fits.predictor
