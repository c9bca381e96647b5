-- The answers that each variant loses: how many its first different token loses by itself, and how many are lost by
-- the tokens that follow.
-- grain: one row per variant × source of texts × metric, noise variants included.
-- key: model, recipe, text_source, metric
-- inputs: stg_generations, stg_option_subspace, stg_task_samples, noise_variants
-- how to read: three texts answer every question: the dense model's d, the fork f, and the variant's v. The fork is
--   what the dense model writes if it takes the variant's token at the first flip and then continues by itself. If
--   nothing flips, all three are the same text. A lost answer is right in d and wrong in v. It is lost by the first
--   token if f is also wrong, and by what follows if f is right. The difference of the shares of right answers, d − v,
--   is first_token_loss (d − f) plus following_loss (f − v); both are net of gained answers. Their intervals are paired
--   by question, and include 0 whenever McNemar's exact test does not reject at 5 %. Under measure agreement the dense
--   model's answer counts as the right one; texts without an answer in d are excluded. Under exact_match, prompts with
--   options are excluded unless the Wilson interval of the dense model's share of right answers to them is above that
--   of a guess, 1/options. If first_token_share is not below unrelated_share, the forks' answers are unrelated to the
--   dense model's. The flips of a noise variant are those of rounding. Variants with a flip whose fork is not stored
--   have no row. Intervals are at 95 % and not corrected for the number of variants.
-- reason: says whether an answer breaks at one token, which any sampler may draw, or through many.
-- columns:
--   text_source: Task with written answers; (prompts) for the prompts of the study
--   metric: Name of the metric in task_scores; of prompts exact_match, or agreement with the dense model's answers
--   measure: score, for right answers, or agreement, for the dense model's own answers
--   is_noise: Whether the variant is the dense model computed in another way
--   n_answers: Questions with all three answers, right or wrong [answers]
--   n_flipped: Those whose text differs from the dense model's in a token [answers]
--   n_right_dense: Right in the dense text [answers]
--   n_right_fork: Right in the fork [answers]
--   n_right_pruned: Right in the variant's text [answers]
--   n_lost: Right in the dense text, wrong in the variant's [answers]
--   n_lost_by_first_token: Lost answers that the fork loses, too [answers]
--   n_lost_after: Lost answers that the fork keeps [answers] = n_lost − n_lost_by_first_token
--   n_recovered: Right in the dense text and the variant's, wrong in the fork [answers]
--   n_gained: Wrong in the dense text, right in the variant's [answers]
--   n_gained_by_first_token: Gained answers that the fork gains, too [answers]
--   first_token_share: Share of the lost answers that the first token loses by itself; NULL without a lost one [share]
--     = n_lost_by_first_token/n_lost
--   first_token_share_low: Lower end of its 95 % Wilson interval [share]
--   unrelated_share: first_token_share that unrelated answers would have: mean of 1 − 1/options, or 1 without options
--     [share]
--   first_token_loss: Change by the first token alone [share] = (n_right_dense − n_right_fork)/n_answers
--   first_token_loss_low: Lower end of its 95 % interval, paired [share]
--   following_loss: Change by what follows [share] = (n_right_fork − n_right_pruned)/n_answers
--   following_loss_low: Lower end of its 95 % interval, paired [share]
with guesses as (
    select distinct
        model, prompt_id,
        1 / len(options) as guess
    from stg_option_subspace
),

answers as (
    select
        pruned.model, pruned.recipe,
        '(prompts)' as text_source,
        pruned.first_flip_step, pruned.text_fork,
        coalesce(guesses.guess, 0) as guess,
        unnest(['exact_match', 'agreement']) as metric,
        unnest([dense.is_correct, case when dense.answer is not null then true end]) as is_right_dense,
        unnest([pruned.is_correct_fork, dense.answer is not distinct from pruned.answer_fork]) as is_right_fork,
        unnest([pruned.is_correct, dense.answer is not distinct from pruned.answer]) as is_right_pruned
    from stg_generations as pruned
    inner join stg_generations as dense using (model, prompt_id)
    left join guesses using (model, prompt_id)
    where pruned.recipe <> 'dense' and dense.recipe = 'dense'

    union all

    select
        pruned.model, pruned.recipe,
        pruned.task as text_source,
        pruned.first_flip_step, pruned.text_fork,
        0 as guess,
        unnest([
            case when pruned.verdict is null then 'exact_match' else 'pass_at_1' end,
            case when pruned.verdict is null then 'exact_match_lenient' end,
            'agreement'
        ]) as metric,
        unnest([
            dense.is_correct, dense.is_correct_lenient, case when dense.answer_lenient is not null then true end
        ]) as is_right_dense,
        unnest([
            pruned.is_correct_fork, pruned.is_correct_lenient_fork,
            dense.answer_lenient is not distinct from pruned.answer_lenient_fork
        ]) as is_right_fork,
        unnest([
            pruned.is_correct, pruned.is_correct_lenient,
            dense.answer_lenient is not distinct from pruned.answer_lenient
        ]) as is_right_pruned
    from stg_task_samples as pruned
    inner join stg_task_samples as dense using (model, task, sample_id, sample_hash)
    where
        pruned.recipe <> 'dense' and dense.recipe = 'dense'
        and pruned.token_ids is not null and dense.token_ids is not null
),

triples as (
    select
        model, recipe, text_source, metric, guess,
        first_flip_step is not null as is_flipped,
        is_right_dense as d,
        case when first_flip_step is null then is_right_dense else is_right_fork end as f,
        is_right_pruned as v
    from answers
    window of_options as (partition by model, recipe, text_source, metric, guess > 0)
    -- Older files lack the forks of flipped texts; the unflipped texts must not count alone.
    qualify
        count_if(first_flip_step is not null and text_fork is null) over (partition by model, recipe, text_source) = 0
        and (
            metric = 'agreement' or guess = 0
            or wilson_interval(count_if(d) over of_options, count(d) over of_options)[1] > avg(guess) over of_options
        )
),

counted as (
    select
        model, recipe, text_source, metric,
        count(*) as n_answers,
        count(*) filter (where is_flipped) as n_flipped,
        count(*) filter (where d) as n_right_dense,
        count(*) filter (where f) as n_right_fork,
        count(*) filter (where v) as n_right_pruned,
        count(*) filter (where d and not v) as n_lost,
        avg(1 - guess) filter (where d and not v) as unrelated_share,
        count(*) filter (where d and not v and not f) as n_lost_by_first_token,
        count(*) filter (where d and not v and f) as n_lost_after,
        count(*) filter (where d and v and not f) as n_recovered,
        count(*) filter (where not d and v) as n_gained,
        count(*) filter (where not d and v and f) as n_gained_by_first_token,
        count(*) filter (where d and not f) as lost_fork,
        count(*) filter (where not d and f) as gained_fork,
        count(*) filter (where f and not v) as lost_after_fork,
        count(*) filter (where not f and v) as gained_after_fork
    from triples
    where metric is not null and d is not null and f is not null and v is not null
    group by all
)

select
    counted.model, counted.recipe, counted.text_source, counted.metric,
    case when counted.metric = 'agreement' then 'agreement' else 'score' end as measure,
    noise_variants.recipe is not null as is_noise,
    counted.n_answers, counted.n_flipped, counted.n_right_dense, counted.n_right_fork, counted.n_right_pruned,
    counted.n_lost, counted.n_lost_by_first_token, counted.n_lost_after, counted.n_recovered, counted.n_gained,
    counted.n_gained_by_first_token,
    counted.n_lost_by_first_token / nullif(counted.n_lost, 0) as first_token_share,
    wilson_interval(counted.n_lost_by_first_token, counted.n_lost)[1] as first_token_share_low,
    wilson_interval(counted.n_lost_by_first_token, counted.n_lost)[2] as first_token_share_high,
    counted.unrelated_share,
    (counted.lost_fork - counted.gained_fork) / counted.n_answers as first_token_loss,
    interval_of_paired_change(counted.gained_fork, counted.lost_fork, counted.n_answers)[1] as first_token_loss_low,
    interval_of_paired_change(counted.gained_fork, counted.lost_fork, counted.n_answers)[2] as first_token_loss_high,
    (counted.lost_after_fork - counted.gained_after_fork) / counted.n_answers as following_loss,
    interval_of_paired_change(counted.gained_after_fork, counted.lost_after_fork, counted.n_answers)[1]
        as following_loss_low,
    interval_of_paired_change(counted.gained_after_fork, counted.lost_after_fork, counted.n_answers)[2]
        as following_loss_high
from counted
left join noise_variants using (model, recipe)
