-- Whether the paper's claims hold on a model: each with its number, the uncertainty, and a verdict.
-- grain: one row per model × claim × measure.
-- key: model, claim, measure
-- inputs: claim_numbers
-- columns:
--   model: name of the dense model
--   claim: choosing_survives, writing_loses_more, second_order_fits, softmax_amplifies, choice_is_kept,
--     options_move_less, options_in_the_tail or decoding_feeds_back [label]
--   measure: what it is measured by: score or agreement of tasks, a theorem, a lens; all where there is one way [label]
--   says: the claim in words, with its threshold
--   n: number of independent units that the amount rests on
--   units: answers, prompts or questions [label]
--   rests_on: number of units, and of what was measured on all of them
--   amount: the number [share; correlation for second_order_fits]
--   amount_low: lower end of its 95 % interval, over the units and not corrected for the number of claims; NULL where
--     nothing says how uncertain it is [as amount]
--   amount_high: upper end of its 95 % interval, over the units and not corrected for the number of claims; NULL where
--     nothing says how uncertain it is [as amount]
--   threshold: what the amount is compared with [as amount]
--   verdict: holds or does not hold where the whole interval lies on one side of the threshold, answers to tasks are
--     at least verdict_min_units, and prompts or questions at least 6, else too little data
-- how to read: losses are those of task_losses, above a guess and beyond the noise floor, paired by answer. The first
--   two claims are about variants whose writing loses at least half; their intervals add the spread over variants
--   (Student's t, NULL for one variant) and the error over answers, the latter taken as the same for all. n is the
--   smaller number of answers of the two kinds of task. Which variants these are follows from the measured loss, so
--   that chance adds a little to the loss in writing. For the theorems the amount is the correlation of the logarithms
--   of estimate and truth (paper_fits), averaged over methods, with its error over prompts (Student's t, after Fisher's
--   transformation). softmax_amplifies is the share of sublayers, clustered by prompt, and the others are shares of
--   questions or prompts, for which the claim holds in more than half of the variants, with Wilson's interval.
--   decoding_feeds_back compares the median KLs behind a text's first flip, and counts prompts with one. Verdicts are
--   not corrected for the number of claims: each claim that is exactly at its threshold holds or fails by chance in 5 %
--   of all studies. The paper states its claims in words; the thresholds are ours. 0.5 of a loss: a score counts as
--   lost when it halves, as in q21. 0.5 of questions, sublayers, prompts: the paper says `most`, which is more than
--   half. 0: writing loses more if the difference is above 0. 0.99: the paper's figure has a correlation of 0.996, and
--   fewer prompts scatter more. 1 %: the options in the paper have 0.004 % of the probability, whereas a model that
--   answers by letter gives them nearly all of it, so that the exact threshold matters little.
-- reason: a report says which claims hold on this model, which do not, and for which there is too little data.
with

claims as (
    select
        unnest([
            'choosing_survives',
            'writing_loses_more',
            'second_order_fits',
            'softmax_amplifies',
            'choice_is_kept',
            'options_move_less',
            'options_in_the_tail',
            'decoding_feeds_back'
        ]) as claim,
        unnest([
            'Where writing loses at least half, choosing among options loses less than half.',
            'Where writing loses at least half, it loses more than choosing.',
            'The second-order estimate follows the truth: its logarithm correlates above 0.99.',
            'Probabilities move further than logits behind most sublayers.',
            'Most questions keep the choice among their options.',
            'The options move less than the whole vocabulary for most questions.',
            'The options of most questions have less than 1 % of the dense probability.',
            'On most prompts whose texts part, a variant is further off reading its own tokens than the dense ones.'
        ]) as says,
        unnest(cast([0.5, 0.0, 0.99, 0.5, 0.5, 0.5, 0.5, 0.5] as double[])) as threshold,
        -- Whether more is better for the claim.
        unnest([false, true, true, true, true, true, true, true]) as is_more
)

select
    numbers.model,
    numbers.claim,
    numbers.measure,
    claims.says,
    numbers.n,
    numbers.units,
    numbers.rests_on,
    numbers.amount,
    numbers.amount_low,
    numbers.amount_high,
    claims.threshold,
    case
        -- As for a verdict on a variant; an interval from fewer answers rests on hardly any that differ.
        when numbers.units = 'answers' and numbers.n < verdict_min_units() then 'too little data'
        -- Of five, all are on one side by chance in more than 5 % of studies; a correlation has Student's t.
        when numbers.n < 6 and numbers.claim <> 'second_order_fits' then 'too little data'
        when if(claims.is_more, numbers.amount_low > claims.threshold, numbers.amount_high < claims.threshold)
            then 'holds'
        when if(claims.is_more, numbers.amount_high < claims.threshold, numbers.amount_low > claims.threshold)
            then 'does not hold'
        else 'too little data'
    end as verdict
from claim_numbers as numbers
inner join claims
    on numbers.claim = claims.claim
order by numbers.model, claims.claim, numbers.measure
