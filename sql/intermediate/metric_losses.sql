-- The part of the dense score above a guess that each variant loses, per metric, with its interval.
-- grain: one row per pruned or noise variant × task group × kind × metric that counts.
-- key: model, recipe, task_group, kind, metric
-- inputs: score_pairs
-- how to read: loss = 1 − (score − guess)/(dense score − guess). Its interval is that of a ratio of paired shares
--   (interval_of_ratio). A metric is excluded if the interval of its dense score is not wholly above a guess, because
--   nothing can be lost there. The variances and the covariance are those of score_pairs.
-- reason: task_losses averages these and compares them with those of the noise floor on the same answers.
-- columns:
--   loss: Part of the dense score above a guess that is lost [share]
--   loss_low: Lower end of its 95 % interval, paired by answer [share]
with ratios as (
    select
        *,
        interval_of_ratio(
            score - guess,
            score_low - guess,
            score_high - guess,
            score_dense - guess,
            score_dense_low - guess,
            score_dense_high - guess,
            correlation_or_0(answers_covariance, answers_variance, answers_dense_variance)
        ) as kept
    from score_pairs
    where score_dense_low > guess
)

select
    model, recipe, task_group, kind, metric, measure, is_noise, n_answers,
    (score_dense - score) / (score_dense - guess) as loss,
    1 - kept[2] as loss_low,
    1 - kept[1] as loss_high,
    answers_covariance, answers_variance, answers_dense_variance
from ratios
