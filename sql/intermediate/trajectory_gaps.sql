-- Two gaps in the mean KL after the first flip, text by text: own text against dense text, free running against fork.
-- grain: one row per variant × prompt whose texts go on after the flip, noise variants included.
-- key: model, recipe, prompt_id
-- inputs: steps_after_flip
-- how to read: all means of a text are over the same steps, those that all its trajectories have (steps_after_flip).
-- reason: prompts are the independent units of the comparisons in q13, paper_claims and variant_damage.
-- columns:
--   own_minus_forced_nats: What reading its own text adds to the KL [nats] = own_text − teacher_forced
--   own_over_forced_ln: The same as a factor [ln ratio] = ln(own_text/teacher_forced)
--   free_minus_fork_nats: KL free running beyond that of the fork, the dense model alone [nats] = free_running − fork
--   free_over_fork_ln: The same as a factor [ln ratio] = ln(free_running/fork)
with texts as (
    select
        model, recipe, prompt_id,
        avg(kl_nats) filter (where trajectory = 'teacher_forced') as forced,
        avg(kl_nats) filter (where trajectory = 'own_text') as own,
        avg(kl_nats) filter (where trajectory = 'free_running') as free,
        avg(kl_nats) filter (where trajectory = 'fork') as fork
    from steps_after_flip
    group by all
)

select
    model, recipe, prompt_id,
    own - forced as own_minus_forced_nats,
    case when own > 0 and forced > 0 then ln(own / forced) end as own_over_forced_ln,
    free - fork as free_minus_fork_nats,
    case when free > 0 and fork > 0 then ln(free / fork) end as free_over_fork_ln
from texts
