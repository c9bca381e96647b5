-- Does a task's answer depend on whether option labels or the options' whole texts are compared?
-- grain: one row per model × recipe × task.
-- key: model, recipe, task
-- inputs: stg_task_samples, noise_variants
-- how to read: only samples scored both ways count, and only with a right option. Under letter the most likely label is
--   the answer, under full_text the most likely whole text, per byte the most likely per byte; a tie goes to the first.
--   same_answer is how often label and whole text choose the same option. mcnemar_p is the probability of a split
--   between only_letter_correct and only_full_text_correct at least as uneven if both ways were equally good. The dense
--   recipe has a row for comparison; noise variants are excluded.
-- reason: the paper measures options by their labels, benchmarks by whole texts; a loss in only one of them comes from
--   the form of the question.
-- columns:
--   n_samples: Samples with a right option that were scored both ways [samples]
--   accuracy_letter: Share answered right by the labels [share]
--   accuracy_full_text: Share answered right by the whole texts [share]
--   accuracy_full_text_per_byte: Share answered right by the whole texts per byte [share]
--   same_answer: Share in which label and whole text choose the same option [share]
--   same_answer_low: Lower end of its 95 % Wilson interval [share]
--   only_letter_correct: Samples that only the labels answer right [samples]
--   only_full_text_correct: Samples that only the whole texts answer right [samples]
--   mcnemar_p: Exact two-sided McNemar test of the two; NULL if neither has one [probability]
with chosen as (
    select
        samples.model, samples.recipe, samples.task, samples.sample_id, samples.scoring, samples.target_index,
        likeliest(samples.option_log_likelihoods) - 1 as answer_index,
        likeliest(samples.option_log_likelihoods_per_byte) - 1 as answer_index_per_byte
    from stg_task_samples as samples
    anti join noise_variants using (model, recipe)
    where samples.scoring in ('letter', 'full_text') and samples.target_index is not null
),

paired as (
    select
        letter.model, letter.recipe, letter.task,
        letter.answer_index = letter.target_index as is_letter_correct,
        whole.answer_index = whole.target_index as is_whole_correct,
        whole.answer_index_per_byte = whole.target_index as is_whole_correct_per_byte,
        letter.answer_index = whole.answer_index as is_same
    from chosen as letter
    inner join chosen as whole using (model, recipe, task, sample_id)
    where letter.scoring = 'letter' and whole.scoring = 'full_text'
),

counted as (
    select
        model, recipe, task,
        count(*) as n_samples,
        count(*) filter (where is_letter_correct) as letter_correct,
        count(*) filter (where is_whole_correct) as whole_correct,
        count(*) filter (where is_whole_correct_per_byte) as whole_correct_per_byte,
        count(*) filter (where is_same) as same,
        count(*) filter (where is_letter_correct and not is_whole_correct) as only_letter_correct,
        count(*) filter (where is_whole_correct and not is_letter_correct) as only_full_text_correct
    from paired
    group by all
)

select
    model, recipe, task, n_samples,
    letter_correct / n_samples as accuracy_letter,
    whole_correct / n_samples as accuracy_full_text,
    whole_correct_per_byte / n_samples as accuracy_full_text_per_byte,
    same / n_samples as same_answer,
    wilson_interval(same, n_samples)[1] as same_answer_low,
    wilson_interval(same, n_samples)[2] as same_answer_high,
    only_letter_correct, only_full_text_correct,
    mcnemar_exact(only_letter_correct, only_full_text_correct) as mcnemar_p
from counted
order by model, task, recipe
