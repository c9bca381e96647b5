-- Var_p(Δz) of each sublayer alone and KL of the pruned model up to it, by step, for at most twelve variants.
-- grain: one row per model × recipe × layer × sublayer × bin of steps.
-- inputs: variant_summary, transitions_at_reference, reference_lens
-- how to read: a bin holds width steps; there are at most 24 bins. Each method shows its variants with the smallest and
--   the largest KL. The lens is normed if it was measured.
with ranked as (
    select
        model, recipe,
        kl_teacher_forced_mean_nats as kl_nats,
        row_number() over (partition by model, method order by kl_teacher_forced_mean_nats, recipe) as kl_rank,
        row_number() over (partition by model, method order by kl_teacher_forced_mean_nats desc, recipe desc)
            as kl_rank_from_last
    from variant_summary
    where recipe <> 'dense' and kl_teacher_forced_mean_nats is not null
),

selected as (
    select model, recipe, kl_nats
    from ranked
    where kl_rank = 1 or kl_rank_from_last = 1
    qualify row_number() over (partition by model order by kl_rank > 1, kl_nats, recipe) <= 12
),

cells as (
    select
        transitions.model, transitions.recipe, transitions.prompt_id, selected.kl_nats, transitions.lens,
        transitions.temperature, transitions.layer, transitions.sublayer, transitions.scope, transitions.step,
        transitions.kl_dense_pruned_nats, transitions.var_p_dz,
        cast(ceil((1 + max(transitions.step) over (partition by transitions.model)) / 24.0) as integer) as width
    from transitions_at_reference as transitions
    inner join selected using (model, recipe)
    semi join reference_lens using (model, lens)
    where transitions.step >= 0 and transitions.scope in ('local', 'propagated')
)

select
    cells.model, cells.recipe, cells.lens, cells.temperature, cells.layer, cells.sublayer, cells.width,
    cells.step // cells.width as bin,
    count(distinct cells.prompt_id) as prompts,
    median(var_p_dz) filter (where cells.scope = 'local') as var_p_dz,
    median(cells.kl_dense_pruned_nats) filter (where cells.scope = 'propagated') as kl_nats
from cells
group by all
order by cells.model, any_value(cells.kl_nats), cells.recipe, cells.layer, cells.sublayer, bin
