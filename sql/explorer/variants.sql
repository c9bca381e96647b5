-- Parameters removed by each variant, and the shift of its output.
-- grain: one row per model × recipe, dense included.
-- inputs: variant_summary
select
    model, recipe, method, parameters_removed_share, sparsity, sublayers_dropped_count, kl_step0_nats,
    kl_teacher_forced_median_nats, kl_own_text_median_nats, top1_agreement, first_flip_step_median, prompts_flipped,
    prompts_collapsed, prompts_correct, prompts_graded, prompts, options_argmax_kept, questions
from variant_summary
order by model, recipe <> 'dense', recipe
