-- Every sample of every task as each metric of a variant scores it: the answer, whether it is right, and the likelihood
-- of the target.
-- grain: one row per variant × task × metric × sample.
-- key: model, recipe, task, metric, sample_id
-- inputs: stg_task_samples
-- how to read: a sample under full_text has two rows, one by summed log-likelihoods (accuracy) and one by
--   log-likelihoods per byte (accuracy_per_byte). A sample under greedy has one row for its strict and one for its
--   lenient answer (exact_match, exact_match_lenient), or a single row if a program is run (pass_at_1). A text that is
--   only scored (byte_perplexity) has no answer; its log-likelihood is per byte as the model reads the text. In
--   WikiText these are a few bytes fewer than in the page before detokenization, by which task_scores divides. With a
--   single option (lm_eval/acc) there is no choice: the answer is right if the model itself would write that option.
-- reason: views that compare answers treat strict and lenient, summed and per-byte metrics alike.
-- columns:
--   metric: Name of the metric in task_scores that the row belongs to
--   answer: Answer as the metric finds it; NULL if it finds none
--   is_correct: Whether the answer is right; NULL if not known
--   target_log_likelihood: Log-likelihood of the right option or of the text, per byte under accuracy_per_byte; NULL if
--     there is none [nats or nats per byte]
--   target_margin: The same minus that of the best other option; NULL if there is none [nats or nats per byte]
--   weight: Weight of the log-likelihood: 1, or the bytes of a text
with by_options as (
    select
        model, recipe, task, scoring, sample_id, sample_hash, options, answer, is_correct, target_index,
        unnest(
            case
                when scoring = 'letter' then ['accuracy_letter']
                when len(option_log_likelihoods) = 1 then ['lm_eval/acc']
                else ['accuracy', 'accuracy_per_byte']
            end
        ) as metric,
        unnest(
            case
                when scoring = 'letter' or len(option_log_likelihoods) = 1 then [option_log_likelihoods]
                else [option_log_likelihoods, option_log_likelihoods_per_byte]
            end
        ) as log_likelihoods
    from stg_task_samples
    where scoring in ('letter', 'full_text')
),

by_text as (
    select
        model, recipe, task, scoring, sample_id, sample_hash,
        unnest(case when verdict is null then ['exact_match', 'exact_match_lenient'] else ['pass_at_1'] end) as metric,
        unnest(case when verdict is null then [answer, answer_lenient] else [answer] end) as answer,
        unnest(case when verdict is null then [is_correct, is_correct_lenient] else [is_correct] end) as is_correct
    from stg_task_samples
    where scoring = 'greedy'
)

select
    model, recipe, task, metric, scoring, sample_id, sample_hash,
    case when metric = 'accuracy_per_byte' then options[likeliest(log_likelihoods)] else answer end as answer,
    case
        when metric = 'accuracy_per_byte' then likeliest(log_likelihoods) - 1 = target_index
        else is_correct
    end as is_correct,
    cast(log_likelihoods[target_index + 1] as double) as target_log_likelihood,
    margin_of(log_likelihoods, target_index + 1) as target_margin,
    1.0 as weight
from by_options

union all

select
    model, recipe, task, metric, scoring, sample_id, sample_hash, answer, is_correct,
    null as target_log_likelihood,
    null as target_margin,
    1.0 as weight
from by_text

union all

select
    model, recipe, task,
    'byte_perplexity' as metric,
    scoring, sample_id, sample_hash,
    null as answer,
    null as is_correct,
    cast(option_log_likelihoods[1] as double) as target_log_likelihood,
    null as target_margin,
    -- The ratio of the two log-likelihoods is the length of the text in bytes; an empty text has none.
    round(cast(option_log_likelihoods[1] as double) / option_log_likelihoods_per_byte[1]) as weight
from stg_task_samples
where scoring = 'rolling' and option_log_likelihoods_per_byte[1] < 0
