-- What each variant loses in choosing an option and in writing, of what the dense model has above a guess.
-- grain: one row per measure × model × recipe with both kinds of tasks.
-- inputs: task_losses, stg_variants, stg_models
-- how to read: task_losses is read once, because a join of it with itself computes it twice.
with losses as (
    select
        measure, model, recipe,
        max(loss) filter (where kind = 'non_generative') as choosing,
        max(loss_low) filter (where kind = 'non_generative') as choosing_low,
        max(loss_high) filter (where kind = 'non_generative') as choosing_high,
        max(loss) filter (where kind = 'generative') as writing,
        max(loss_low) filter (where kind = 'generative') as writing_low,
        max(loss_high) filter (where kind = 'generative') as writing_high
    from task_losses
    group by all
)

select
    losses.measure, losses.model, losses.recipe, stg_variants.method, stg_models.parameters, losses.choosing,
    losses.choosing_low, losses.choosing_high, losses.writing, losses.writing_low, losses.writing_high
from losses
inner join stg_variants using (model, recipe)
inner join stg_models using (model)
where losses.choosing is not null and losses.writing is not null
order by
    losses.measure desc, stg_models.parameters asc, losses.model asc, stg_variants.method asc, losses.writing asc,
    losses.recipe asc
