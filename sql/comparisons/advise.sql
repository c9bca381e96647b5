-- Verdicts on recipes of one model for `prunescope advise`: those of variant_verdict for any tolerance, where losses
-- predicted from other models come after those of tasks and before tokens and options. Parameters: model, recipes,
-- tolerance.
-- grain: one row per recipe.
-- inputs: verdict_evidence, variant_summary, loss_predictions
with

rated as (
    select
        *,
        -- The variants behind a prediction are of other models; loss_predictions refuses too few of them.
        coalesce((evidence = 'prediction' or n_units >= verdict_min_units()) and loss_low is not null, false)
            as is_enough
    from verdict_evidence
    where model = $1 and list_contains($2, recipe)
),

chosen as (
    select *
    from rated
    qualify row_number() over (
        partition by recipe, kind
        order by
            not (is_enough and is_loss_decided(kind, loss_low, loss_high, $3)),
            not is_enough,
            list_position(['score', 'agreement', 'prediction', 'tokens', 'options'], evidence)
    ) = 1
),

kinds as (
    select
        *,
        if(is_enough, loss_low, null) as low,
        if(is_enough, loss_high, null) as high
    from chosen
)

select
    recipes.recipe,
    verdict_of(writing.low, writing.high, choosing.low, choosing.high, $3) as verdict,
    variants.parameters_removed_share,
    writing.evidence as evidence_writing,
    writing.loss as loss_writing,
    writing.loss_low as loss_writing_low,
    writing.loss_high as loss_writing_high,
    writing.n_units as n_writing,
    choosing.evidence as evidence_choosing,
    choosing.loss as loss_choosing,
    choosing.loss_low as loss_choosing_low,
    choosing.loss_high as loss_choosing_high,
    choosing.n_units as n_choosing
from (select unnest($2) as recipe) as recipes
left join variant_summary as variants
    on recipes.recipe = variants.recipe and variants.model = $1
left join kinds as writing
    on recipes.recipe = writing.recipe and writing.kind = 'writing'
left join kinds as choosing
    on recipes.recipe = choosing.recipe and choosing.kind = 'choosing'
order by
    list_position(['safe', 'non-generative only', 'not safe', 'broken', 'too little evidence'], verdict),
    writing.loss,
    choosing.loss,
    recipes.recipe
