-- What each variant loses in choosing an option and in writing, of what the dense model has above a guess.
-- grain: one row per measure × model × recipe with both kinds of tasks.
-- inputs: task_losses, variant_summary, stg_models
select
    choosing.measure,
    choosing.model,
    choosing.recipe,
    variant_summary.method,
    variant_summary.parameters_removed_share,
    stg_models.parameters,
    choosing.loss as choosing,
    choosing.loss_low as choosing_low,
    choosing.loss_high as choosing_high,
    writing.loss as writing,
    writing.loss_low as writing_low,
    writing.loss_high as writing_high
from task_losses as choosing
inner join task_losses as writing using (model, recipe, measure)
inner join variant_summary using (model, recipe)
inner join stg_models using (model)
where choosing.kind = 'non_generative' and writing.kind = 'generative'
order by
    choosing.measure desc, stg_models.parameters asc, choosing.model asc, variant_summary.method asc, writing.loss asc,
    choosing.recipe asc
