-- Does choosing by KL at the output beat published recipes of the same budget?
-- grain: one row per mixed variant of the strategy searched × measure with a published variant at its budget.
-- key: model, recipe, measure
-- inputs: search_judgement
-- how to read: the published variants remove more of the layers' weights, or at most 0.5 percentage points less, or of
--   their bytes if the budget is bytes. All are measured on the study's own data. difference is mixed minus published,
--   paired by window, prompt or question: below 0 the mixed variant does less damage, but for same_steps and
--   same_options above 0. An interval that includes 0 shows no difference. The best published variant is the one that
--   does best against the mixed one; it is chosen by the same data, in its own favour. n_better and n_worse count
--   published variants whose interval excludes 0; they are not corrected for their number.
-- reason: the lead question of the search.
-- columns:
--   best_recipe: Published variant that does best against the mixed one
--   best_removed_share: Share of the layers' weights, or bytes, that it removes [share]
--   best_amount: Its measure [nats, tokens, steps or share]
--   best_low: Lower end of its 95 % interval [nats, tokens, steps or share]
--   n_published: Published variants at this budget [variants]
--   n_better: Those that the mixed variant beats beyond the interval of the difference [variants]
--   n_worse: Those that beat it beyond the interval [variants]
--   verdict: beats the best, loses to the best, no difference shown, or not known without an interval [label]
select
    model, recipe, measure, budget, removed_share,
    other_recipe as best_recipe,
    other_removed_share as best_removed_share,
    amount, amount_low, amount_high,
    other_amount as best_amount,
    other_low as best_low,
    other_high as best_high,
    difference, difference_low, difference_high, n_units,
    count(*) over of_measure as n_published,
    cast(count_if(is_better) over of_measure as bigint) as n_better,
    cast(count_if(not is_better) over of_measure as bigint) as n_worse,
    comparison_verdict(difference_low, is_better, 'the best') as verdict
from search_judgement
where is_published and strategy = 'searched'
window of_measure as (partition by model, recipe, measure)
qualify is_best_published
order by model asc, budget desc, removed_share asc, recipe asc, measure asc
