-- Whether the paper's claims hold on a model: each with its number, the uncertainty, the null, and a verdict.
-- grain: one row per model × claim × measure.
-- key: model, claim, measure
-- inputs: claim_numbers
-- columns:
--   model: name of the dense model
--   measure: what it is measured by: score or agreement of tasks, a theorem, a lens, a scale; all if there is one way
--     [label]
--   says: the claim in words, with its threshold
--   n: number of independent units that the amount rests on
--   rests_on: number of units, and of the variants, methods or sublayers measured on all of them
--   amount: the number [share, correlation, nats or ln ratio]
--   amount_low: Lower end of its 95 % interval, over the units and not corrected for the number of claims; NULL if
--     nothing says how uncertain it is [as amount]
--   null_amount: the same number for the noise variant that moves the output most, whose rounding alone differs; NULL
--     if it was not measured, or on fewer than 6 prompts that flip [as amount]
--   threshold: what the amount is compared with [as amount]
--   verdict: holds, or does not hold, if the whole interval lies on that side of the threshold, with at least
--     verdict_min_units answers to tasks, or 6 prompts or questions; as under rounding, if the interval of an effect is
--     not above that of its null, or no variant moves further than rounding; no null, if an effect is above the
--     threshold and null_amount is NULL; else too little data
-- how to read: each number is one mean over all pruned variants that move the output further than rounding does
--   (claim_variants). No variant is chosen by its outcome, so nothing has to be corrected for their number. The
--   exception is choosing_survives: it is about the variants whose measured writing loses at least half, and rests_on
--   says how many these are. Losses are those of task_losses, above a guess and beyond the noise, paired by answer, so
--   their null is 0. Their intervals add the spread over variants (Student's t, NULL for one variant) and the error
--   over answers, which is taken as the same for all variants. n is the smaller number of answers of the two kinds of
--   task. second_order_fits is the correlation of estimate and truth within a method (paper_fits), averaged over
--   methods, with its error over prompts (Student's t, after Fisher's transformation): on the plain scale, as in the
--   paper, and for logarithms. softmax_amplifies is the share of positions after one changed sublayer whose 1 − cos is
--   larger in p than in z, clustered by prompt; local_amplification has the median factors. own_text_is_further and
--   free_running_exceeds_fork compare means after the first flip, paired by prompt and averaged over variants, with
--   Student's interval; q13 has them by variant. The other claims are shares of questions for which the claim holds in
--   more than half of the variants, with Wilson's interval. options_move_less compares KL(options) with KL(rest), each
--   renormalised; either may be the larger. KL(options) below KL(vocabulary) would not be a test: by the chain rule
--   KL(vocabulary) = KL(masses) + m KL(options) + (1 − m) KL(rest), so for any model KL(options) is at most
--   KL(vocabulary)/m, and hardly above KL(vocabulary) if the options hold most of the mass m. An effect
--   (softmax_amplifies, options_move_less, own_text_is_further, free_running_exceeds_fork, writing_loses_more) must
--   also exceed the upper end of the null's own interval. The other claims say that something survives or fits;
--   rounding alone does even less harm, so their null is shown and not compared. Verdicts are not corrected for the
--   number of claims: a claim that is exactly at its threshold holds or fails by chance in 5 % of studies. The paper
--   states its claims in words; the thresholds are ours. A loss of 0.5: a score counts as lost when it halves, as in
--   q21. 0.5 of questions or positions: the paper says `most`. 0: a difference or logarithm is above 0. 0.99: the
--   paper's figure has a correlation of 0.996, and fewer prompts scatter more. 1 %: the options in the paper have
--   0.004 % of the probability, and a model that answers by letter gives them nearly all of it, so the exact threshold
--   matters little.
-- reason: a report says which claims hold on this model, which do not, and for which there is too little data.
with claims as (
    select
        unnest([
            'choosing_survives',
            'writing_loses_more',
            'second_order_fits',
            'softmax_amplifies',
            'choice_is_kept',
            'options_move_less',
            'options_in_the_tail',
            'own_text_is_further',
            'free_running_exceeds_fork'
        ]) as claim,
        unnest([
            'Variants that lose at least half of measured writing lose less than half of choosing among options.',
            'Writing loses more than choosing.',
            'The second-order estimate follows the truth: it correlates above 0.99.',
            'Probabilities move further than logits at most positions after a changed sublayer.',
            'Most questions keep the choice among their options.',
            'The options move less than the rest of the vocabulary for most questions.',
            'The options of most questions have less than 1 % of the dense probability.',
            'On its own text a variant is further from the dense model than on the dense text.',
            'Free running, a variant is further from the dense model than that is from itself after one other token.'
        ]) as says,
        unnest(cast([0.5, 0, 0.99, 0.5, 0.5, 0.5, 0.5, 0, 0] as double[])) as threshold,
        -- Whether more is better for the claim.
        unnest([false, true, true, true, true, true, true, true, true]) as is_more,
        -- Whether the claim is about an effect of pruning, which must exceed that of rounding.
        unnest([false, true, false, true, false, true, false, true, true]) as is_effect
),

judged as (
    select
        numbers.*,
        claims.says, claims.threshold,
        if(claims.is_more, numbers.amount_low > claims.threshold, numbers.amount_high < claims.threshold) as is_above,
        if(claims.is_more, numbers.amount_high < claims.threshold, numbers.amount_low > claims.threshold) as is_below,
        -- NULL if the null of an effect was not measured; then nothing holds.
        claims.is_effect and numbers.amount_low <= coalesce(numbers.null_amount_high, numbers.null_amount) as is_as_null
    from claim_numbers as numbers
    inner join claims using (claim)
)

select
    model, claim, measure, says, n, units, rests_on, amount, amount_low, amount_high, null_amount, threshold,
    case
        -- As for a verdict on a variant; an interval from fewer answers rests on hardly any that differ.
        when units = 'answers' and n < verdict_min_units() then 'too little data'
        -- Five units are all on one side by chance in more than 5 % of studies.
        when n < 6 then 'too little data'
        when is_rounding or (is_above and is_as_null) then 'as under rounding'
        when is_above and not is_as_null then 'holds'
        when is_above then 'no null'
        when is_below then 'does not hold'
        else 'too little data'
    end as verdict
from judged
order by model, claim, measure
