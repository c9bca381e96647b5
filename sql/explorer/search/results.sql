-- What each search found, and the best published variant of its budget.
-- grain: one row per model × search × target with a result of the strategy searched.
-- inputs: search_front, search_judgement
with

-- KL on texts if any was measured, else on prompts.
judged as (
    select *
    from search_judgement
    where is_best_published and measure in ('kl_texts', 'kl_prompts')
    qualify row_number() over (partition by model, recipe order by measure <> 'kl_texts') = 1
)

select
    front.model, front.search, front.trial, front.removed, front.budget, front.recipe, front.measured_nats,
    front.measured_low, front.measured_high, front.n_items, judged.measure, judged.removed_share,
    judged.amount as kl_nats,
    judged.amount_low as kl_low,
    judged.amount_high as kl_high,
    judged.other_recipe, judged.other_removed_share,
    judged.other_amount as other_kl_nats,
    judged.other_low as other_kl_low,
    judged.other_high as other_kl_high,
    judged.difference, judged.difference_low, judged.difference_high,
    texts.amount as same_steps,
    texts.other_amount as other_same_steps,
    questions.n_units as n_questions,
    questions.amount * questions.n_units as same_options,
    questions.other_amount * questions.n_units as other_same_options
from search_front as front
left join judged using (model, recipe)
left join search_judgement as texts
    on
        judged.model = texts.model and judged.recipe = texts.recipe and judged.other_recipe = texts.other_recipe
        and texts.measure = 'same_steps'
left join search_judgement as questions
    on
        judged.model = questions.model and judged.recipe = questions.recipe
        and judged.other_recipe = questions.other_recipe and questions.measure = 'same_options'
where front.strategy = 'searched'
order by front.model, front.search, front.remove
