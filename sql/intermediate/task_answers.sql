-- Every sample of every task as each metric of a variant reads it: the answer, whether it is right, and how the target
-- fared.
-- grain: one row per variant × task × metric × sample.
-- key: model, recipe, task, metric, sample_id
-- inputs: stg_task_samples
-- how to read: a sample under full_text is read twice, by summed log-likelihoods (accuracy) and by those over bytes
--   (accuracy_per_byte), one under greedy by its strict and its lenient answer (exact_match, exact_match_lenient), or
--   once where a program is run (pass_at_1). A text that is read (byte_perplexity) has no answer; its log-likelihood
--   counts for its bytes as the model reads them, which in WikiText are a few fewer than those of the page before it
--   was detokenized, over which task_scores takes its value. A single option (lm_eval/acc) is no choice: right where it
--   is what the model would write.
-- reason: strict and lenient, summed and per byte are to be compared alike, by views that need not know them apart.
-- columns:
--   metric: Name of the metric in task_scores that the row belongs to
--   answer: Answer as the metric finds it; NULL where it finds none
--   is_correct: Whether that is the right one; NULL where that is not known
--   target_log_likelihood: Log-likelihood of the right option or of the text, under accuracy_per_byte over its bytes;
--     NULL where there is none [nats or nats per byte]
--   target_margin: That less the best other option's; NULL where there is none [nats or nats per byte]
--   weight: What the log-likelihood counts for: 1, or the bytes of a text
with

by_options as (
    select
        model,
        recipe,
        task,
        scoring,
        sample_id,
        sample_hash,
        options,
        answer,
        is_correct,
        target_index,
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
        model,
        recipe,
        task,
        scoring,
        sample_id,
        sample_hash,
        unnest(case when verdict is null then ['exact_match', 'exact_match_lenient'] else ['pass_at_1'] end) as metric,
        unnest(case when verdict is null then [answer, answer_lenient] else [answer] end) as answer,
        unnest(case when verdict is null then [is_correct, is_correct_lenient] else [is_correct] end) as is_correct
    from stg_task_samples
    where scoring = 'greedy'
)

select
    model,
    recipe,
    task,
    metric,
    scoring,
    sample_id,
    sample_hash,
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
    model,
    recipe,
    task,
    metric,
    scoring,
    sample_id,
    sample_hash,
    answer,
    is_correct,
    null as target_log_likelihood,
    null as target_margin,
    1.0 as weight
from by_text

union all

select
    model,
    recipe,
    task,
    'byte_perplexity' as metric,
    scoring,
    sample_id,
    sample_hash,
    null as answer,
    null as is_correct,
    cast(option_log_likelihoods[1] as double) as target_log_likelihood,
    null as target_margin,
    -- The length of a text is what its two log-likelihoods differ by; an empty text has none.
    round(cast(option_log_likelihoods[1] as double) / option_log_likelihoods_per_byte[1]) as weight
from stg_task_samples
where scoring = 'rolling' and option_log_likelihoods_per_byte[1] < 0
