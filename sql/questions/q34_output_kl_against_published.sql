-- Does choosing by output KL beat published recipes at the same budget?
-- grain: one row per mixed variant × measure with a published variant at its budget.
-- key: model, recipe, measure
-- inputs: search_judgement
-- how to read: against the published variant with the least damage that removes as many of the layers' weights, up to
--   0.5 percentage points less, on data that the search never saw. difference is mixed minus published, paired by
--   window or prompt: below 0 the mixed variant does less damage, but above 0 where measure is first_flip_step. An
--   interval that contains 0 shows no difference. The best published variant is chosen by the same data, in its own
--   favour. n_better and n_worse count published variants whose interval excludes 0; they are not corrected for their
--   number.
-- reason: the lead question of the search.
-- columns:
--   best_recipe: Published variant with the least damage by the measure; the first by name of equal ones
--   best_removed_share: Share of the layers' weights that it removes [share]
--   best_amount: Its measure [nats, tokens or step]
--   best_low: Lower end of its 95 % interval [nats, tokens or step]
--   best_high: Upper end of it [nats, tokens or step]
--   n_published: Published variants at this budget [variants]
--   n_better: Those that the mixed variant beats beyond its interval [variants]
--   n_worse: Those that beat it beyond the interval [variants]
--   verdict: beats the best, loses to the best, no difference shown, or not known without an interval [label]
with

counts as (
    select
        model,
        recipe,
        measure,
        count(*) as n_published,
        cast(count_if(is_better) as bigint) as n_better,
        cast(count_if(not is_better) as bigint) as n_worse
    from search_judgement
    where is_published
    group by model, recipe, measure
),

best as (
    select *
    from search_judgement
    where is_best_published
    qualify row_number() over (partition by model, recipe, measure order by other_recipe) = 1
)

select
    best.model,
    best.recipe,
    best.measure,
    best.removed_share,
    best.other_recipe as best_recipe,
    best.other_removed_share as best_removed_share,
    best.amount,
    best.amount_low,
    best.amount_high,
    best.other_amount as best_amount,
    best.other_low as best_low,
    best.other_high as best_high,
    best.difference,
    best.difference_low,
    best.difference_high,
    best.n_units,
    counts.n_published,
    counts.n_better,
    counts.n_worse,
    case
        when best.difference_low is null then 'not known'
        when best.is_better then 'beats the best'
        when not best.is_better then 'loses to the best'
        else 'no difference shown'
    end as verdict
from best
inner join counts
    on best.model = counts.model and best.recipe = counts.recipe and best.measure = counts.measure
order by best.model, best.removed_share, best.recipe, best.measure
