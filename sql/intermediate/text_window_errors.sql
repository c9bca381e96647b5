-- Standard errors of the figures of a text, with its windows as the independent units.
-- grain: one row per variant × text, noise included.
-- key: model, recipe, text_id
-- inputs: text_token_losses
-- how to read: every window scores the same number of tokens, so the mean over windows is the mean over tokens. NULL
--   below two windows.
-- reason: neighbouring tokens err together, so errors over tokens are too small.
-- columns:
--   windows: Windows that the tokens were scored in [windows]
--   nll_dense_se: Standard error of the dense model's mean loss [nats]
--   nll_pruned_se: Standard error of the variant's mean loss [nats]
--   nll_covariance: Covariance of the two mean losses [nats²]
--   ln_ratio_se: Standard error of the mean difference of the losses [nats]
--   delta_p_target_se: Standard error of the mean change of the target's probability [probability]
--   delta_p_square_se: Standard error of the mean square of that change [probability²]
--   kl_se: Standard error of the mean KL [nats]
--   is_top1_same_se: Standard error of the share of equal top tokens [share]
with windows as (
    select
        model, recipe, text_id, window_id,
        avg(nll_dense) as nll_dense,
        avg(nll_pruned) as nll_pruned,
        avg(ln_ratio) as ln_ratio,
        avg(delta_p_target) as delta_p_target,
        avg(delta_p_target ** 2) as delta_p_square,
        avg(kl) as kl,
        avg(is_top1_same) as is_top1_same
    from text_token_losses
    group by all
)

select
    model, recipe, text_id,
    count(*) as windows,
    standard_error(nll_dense) as nll_dense_se,
    standard_error(nll_pruned) as nll_pruned_se,
    covar_samp(nll_dense, nll_pruned) / count(*) as nll_covariance,
    standard_error(ln_ratio) as ln_ratio_se,
    standard_error(delta_p_target) as delta_p_target_se,
    standard_error(delta_p_square) as delta_p_square_se,
    standard_error(kl) as kl_se,
    standard_error(is_top1_same) as is_top1_same_se
from windows
group by all
