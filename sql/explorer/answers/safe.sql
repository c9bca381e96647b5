-- Variants by verdict, best first, the nearest ones, and how much evidence would decide the open ones.
-- grain: one row per model.
-- inputs: variant_verdict, variant_ranking
with

ranked as (
    select
        verdicts.*,
        ranking.measure,
        ranking.amount,
        ranking.amount_low,
        ranking.amount_high,
        ranking.is_nearest,
        row_number() over (
            partition by verdicts.model
            order by
                list_position(
                    ['safe', 'non-generative only', 'not safe', 'broken', 'too little evidence'], verdicts.verdict
                ),
                ranking.amount,
                verdicts.recipe
        ) as place
    from variant_verdict as verdicts
    left join variant_ranking as ranking
        on verdicts.model = ranking.model and verdicts.recipe = ranking.recipe
)

select
    model,
    count(*) as variants,
    count(*) filter (where verdict = 'safe') as safe,
    list(recipe order by place) filter (where verdict = 'safe') as recipes_safe,
    list(recipe order by place) filter (where verdict = 'non-generative only') as recipes_choosing_only,
    list(recipe order by place) filter (where verdict = 'not safe') as recipes_not_safe,
    list(recipe order by place) filter (where verdict = 'broken') as recipes_broken,
    list(recipe order by place) filter (where verdict = 'too little evidence') as recipes_open,
    min(units_needed) filter (where verdict = 'too little evidence') as units_needed,
    arg_min(unit_needed, units_needed) filter (where verdict = 'too little evidence') as unit_needed,
    arg_min(recipe, units_needed) filter (where verdict = 'too little evidence') as recipe_needing,
    list(recipe order by amount, recipe) filter (where is_nearest) as nearest,
    any_value(measure) as measure,
    arg_min(amount, amount) as amount,
    arg_min(amount_low, amount) as amount_low,
    arg_min(amount_high, amount) as amount_high,
    min(amount) filter (where not is_nearest) as amount_next,
    arg_min(recipe, amount) filter (where not is_nearest) as recipe_next,
    count(*) filter (where evidence_writing in ('score', 'agreement')) as by_tasks
from ranked
group by model
order by model
