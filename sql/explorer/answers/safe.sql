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
        verdicts.verdict = 'too little evidence' and verdicts.units_needed is not null as is_answerable,
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
    -- Of equal numbers one variant's, always the same.
    first(units_needed order by units_needed, place) filter (where is_answerable) as units_needed,
    first(unit_needed order by units_needed, place) filter (where is_answerable) as unit_needed,
    first(recipe order by units_needed, place) filter (where is_answerable) as recipe_needing,
    list(recipe order by amount, recipe) filter (where is_nearest) as nearest,
    any_value(measure) as measure,
    arg_min(amount, amount) as amount,
    arg_min(amount_low, amount) as amount_low,
    arg_min(amount_high, amount) as amount_high,
    min(amount) filter (where not is_nearest) as amount_next,
    first(recipe order by amount, recipe) filter (where not is_nearest) as recipe_next,
    count(*) filter (where evidence_writing is not null or evidence_choosing is not null) as measured,
    count(*) filter (
        where evidence_writing in ('score', 'agreement') or evidence_choosing in ('score', 'agreement')
    ) as by_tasks
from ranked
group by model
order by model
