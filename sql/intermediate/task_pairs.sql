-- Every sample of every task with the dense model's answer to the same request.
-- grain: one row per pruned variant × task × metric × sample.
-- key: model, recipe, task, metric, sample_id
-- inputs: task_answers, noise_variants
-- how to read: both answers of a pair are to the same request: task, metric, sample_id and sample_hash are equal. lost
--   is a right answer that became wrong, gained a wrong one that became right; a sample that was not graded on both
--   sides is neither. An answer is flipped if the two differ, also if only one side has an answer. The dense recipe and
--   noise variants are excluded.
-- reason: differences on the same samples have far less noise than a difference of two averages.
-- columns:
--   answer_dense: The dense model's answer; NULL if it has none
--   answer_pruned: The variant's answer; NULL if it has none
--   is_correct_dense: Whether the dense answer is right; NULL unless both answers are graded
--   is_correct_pruned: Whether the variant's answer is right; NULL unless both answers are graded
--   is_flipped: Whether the answers differ
--   is_lost: Whether a right answer became wrong; NULL unless both answers are graded
--   is_gained: Whether a wrong answer became right; NULL unless both answers are graded
--   log_likelihood_change: Change of the target's log-likelihood by pruning; NULL if there is none [nats or nats per
--     byte]
--   margin_change: Change of the target's margin over the best other option; NULL if there is none [nats or nats per
--     byte]
select
    pruned.model, pruned.recipe, pruned.task, pruned.metric, pruned.scoring, pruned.sample_id,
    dense.answer as answer_dense,
    pruned.answer as answer_pruned,
    case when pruned.is_correct is not null then dense.is_correct end as is_correct_dense,
    case when dense.is_correct is not null then pruned.is_correct end as is_correct_pruned,
    coalesce(pruned.answer <> dense.answer, (pruned.answer is null) <> (dense.answer is null)) as is_flipped,
    -- `false and null` is false: without the case, a sample that was not graded would count as not lost.
    case
        when dense.is_correct is not null and pruned.is_correct is not null
            then dense.is_correct and not pruned.is_correct
    end as is_lost,
    case
        when dense.is_correct is not null and pruned.is_correct is not null
            then pruned.is_correct and not dense.is_correct
    end as is_gained,
    pruned.target_log_likelihood - dense.target_log_likelihood as log_likelihood_change,
    pruned.target_margin - dense.target_margin as margin_change,
    dense.weight
from task_answers as pruned
anti join noise_variants using (model, recipe)
inner join task_answers as dense using (model, task, metric, sample_id, sample_hash)
where pruned.recipe <> 'dense' and dense.recipe = 'dense'
