-- How often is the best option kept while the ranking of the options is lost?
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: options_at_reference
-- how to read: kendall_tau is 1 for the same ranking, −1 for the reverse one. kept_but_reordered counts questions whose
--   first option is the same and whose tau is below 1. Rankings do not depend on T. The dense recipe is excluded.
-- reason: accuracy depends on the first option only; a lost ranking is damage that the score does not show yet.
-- columns:
--   n_questions: Questions [questions]
--   argmax_kept: Questions whose most likely option is also the dense model's [questions]
--   kept_but_reordered: Those among them whose ranking of the options differs [questions]
--   ranking_kept: Questions whose whole ranking is the dense one [questions]
--   kendall_tau_mean: Mean agreement of the two rankings [-1 to 1]
--   kendall_tau_min: Worst agreement of the two rankings [-1 to 1]
select
    options.model, options.recipe,
    count(*) as n_questions,
    cast(count_if(options.is_argmax_same) as bigint) as argmax_kept,
    cast(count_if(options.is_argmax_same and options.kendall_tau < 1 - 1e-6) as bigint) as kept_but_reordered,
    cast(count_if(options.kendall_tau >= 1 - 1e-6) as bigint) as ranking_kept,
    avg(options.kendall_tau) as kendall_tau_mean,
    min(options.kendall_tau) as kendall_tau_min
from options_at_reference as options
where options.recipe <> 'dense'
group by all
order by options.model, options.recipe
