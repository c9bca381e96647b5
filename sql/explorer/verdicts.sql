-- The verdict on each pruned variant, what holds for all variants of its model together, and the dense model's texts.
-- grain: one row per pruned variant.
-- inputs: variant_verdict, variant_summary
-- how to read: the columns of variant_verdict. fidelity_together, quality_together and alive_together are the words for
--   intervals that hold for all variants of a model together (held_together).
with judged as (
    select
        *,
        count(*) over (partition by model) as n_variants
    from variant_verdict
),

widened as (
    select
        model, recipe,
        unnest(['fidelity', 'writing', 'choosing', 'alive']) as measure,
        unnest(['tokens', evidence_writing, evidence_choosing, 'texts']) as evidence,
        unnest([n_fidelity, n_writing, n_choosing, n_alive]) as units,
        unnest([
            held_together(loss_fidelity, loss_fidelity_low, n_variants),
            held_together(loss_writing, loss_writing_low, n_variants),
            held_together(loss_choosing, loss_choosing_low, n_variants),
            held_together(loss_alive, loss_alive_low, n_variants)
        ]) as low,
        unnest([
            held_together(loss_fidelity, loss_fidelity_high, n_variants),
            held_together(loss_writing, loss_writing_high, n_variants),
            held_together(loss_choosing, loss_choosing_high, n_variants),
            held_together(loss_alive, loss_alive_high, n_variants)
        ]) as high
    from judged
),

worded as (
    select
        model, recipe,
        map_from_entries(list((measure, word_of(evidence, low, high, units, verdict_tolerance())))) as together
    from widened
    group by all
)

select
    judged.model, judged.recipe, judged.verdict, judged.fidelity, judged.quality, judged.writing, judged.choosing,
    judged.alive, judged.loss_fidelity, judged.loss_fidelity_low, judged.loss_fidelity_high, judged.n_fidelity,
    judged.evidence_writing, judged.loss_writing, judged.loss_writing_low, judged.loss_writing_high, judged.n_writing,
    judged.evidence_choosing, judged.loss_choosing, judged.loss_choosing_low, judged.loss_choosing_high,
    judged.n_choosing, judged.loss_alive, judged.loss_alive_low, judged.loss_alive_high, judged.prompts_lost,
    judged.n_alive, judged.would_decide, judged.is_below_noise, judged.prompts, judged.prompts_graded,
    judged.prompts_correct, judged.first_flip_step_median,
    worded.together['fidelity'] as fidelity_together,
    quality_of(worded.together['writing'], worded.together['choosing']) as quality_together,
    worded.together['alive'] as alive_together,
    -- A median between two steps is reached at the later one.
    cast(ceil(judged.first_flip_step_median) as bigint) as first_other_step,
    dense.prompts_correct as prompts_correct_dense,
    dense.prompts_collapsed as prompts_collapsed_dense
from judged
inner join worded using (model, recipe)
left join variant_summary as dense
    on judged.model = dense.model and dense.recipe = 'dense'
order by judged.model, judged.recipe
