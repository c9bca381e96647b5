-- Variants by verdict, best first.
-- grain: one row per model.
-- inputs: variant_verdict
with

ranked as (
    select
        *,
        row_number() over (
            partition by model
            order by
                list_position(['safe', 'non-generative only', 'broken', 'not judged'], verdict),
                loss_writing, loss_choosing, kl_step0_nats, recipe
        ) as place
    from variant_verdict
)

select
    model,
    count(*) as variants,
    count(*) filter (where verdict = 'safe') as safe,
    list(recipe order by place) filter (where verdict = 'safe') as recipes_safe,
    list(recipe order by place) filter (where verdict = 'non-generative only') as recipes_choosing_only,
    list(recipe order by place) filter (where verdict = 'broken') as recipes_broken,
    list(recipe order by place) filter (where verdict = 'not judged') as recipes_not_judged,
    count(*) filter (where verdict = 'safe' and not is_certain) as open_safe,
    count(*) filter (where verdict = 'non-generative only' and not is_certain) as open_choosing_only,
    count(*) filter (where verdict = 'broken' and not is_certain) as open_broken,
    arg_min(recipe, place) filter (where verdict <> 'not judged') as nearest,
    count(*) filter (where basis = 'tasks') as by_tasks,
    count(*) filter (where basis = 'generations') as by_generations,
    min(loss_writing) filter (where basis = 'tasks') as loss_writing_min,
    max(loss_writing) filter (where basis = 'tasks') as loss_writing_max,
    min(loss_choosing) filter (where basis = 'tasks') as loss_choosing_min,
    max(loss_choosing) filter (where basis = 'tasks') as loss_choosing_max
from ranked
group by model
order by model
