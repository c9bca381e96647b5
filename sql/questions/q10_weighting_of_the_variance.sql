-- Does it matter that the variance of Δz is weighted by the dense probabilities, and not by the pruned ones or by none?
-- grain: one row per model × recipe × sublayer × scope × lens.
-- key: model, recipe, sublayer, scope, lens
-- inputs: representation_shifts
-- how to read: p_over_uniform is Var_p(Δz) / Var_u(Δz) and r_over_uniform Var_r(Δz) / Var_u(Δz); below 1 the likely
--   tokens move less than the vocabulary as a whole. The correlations (log10, NULL below 10 points) say how closely
--   each variance follows the KL of either direction, and Var_r, Var_rq and Var_u the cosine defect of p. An estimate
--   is Var(Δz)/(2T²), weighted by the dense p or the pruned q; over the KL, 1 is a perfect estimate. q belongs to
--   KL(pruned‖dense) as p does to KL(dense‖pruned). Columns that need q are NULL for rows of versions that did not
--   measure it. Dense rows, untouched sublayers in local scope and positions without a shift are excluded. Everything
--   is at the reference temperature.
-- reason: an unweighted variance is simpler to analyse, and the paper's published script logs those weighted by the
--   pruned distribution; this shows what each loses.
-- columns:
--   n: Positions with a shift [positions]
--   p_over_uniform_median: Median of the p-weighted over the unweighted variance [ratio] = Var_p(Δz)/Var_u(Δz)
--   r_over_uniform_median: Median of the r-weighted over the unweighted variance [ratio] = Var_r(Δz)/Var_u(Δz)
--   q_over_p_median: Median of the q-weighted over the p-weighted variance [ratio] = Var_q(Δz)/Var_p(Δz)
--   p_estimate_over_kl_median: Median of the p-weighted estimate over KL(dense‖pruned) [ratio] =
--     Var_p(Δz)/(2T² KL(p‖q))
--   q_estimate_over_kl_median: Median of the q-weighted estimate over KL(dense‖pruned) [ratio] =
--     Var_q(Δz)/(2T² KL(p‖q))
--   p_estimate_over_kl_pruned_dense_median: Median of the p-weighted estimate over KL(pruned‖dense) [ratio] =
--     Var_p(Δz)/(2T² KL(q‖p))
--   q_estimate_over_kl_pruned_dense_median: Median of the q-weighted estimate over KL(pruned‖dense) [ratio] =
--     Var_q(Δz)/(2T² KL(q‖p))
--   pearson_log10_var_p_kl: Correlation of the logarithms of Var_p(Δz) and KL(dense‖pruned); NULL below 10 points [-1
--     to 1]
--   pearson_log10_var_uniform_kl: Correlation of the logarithms of Var_u(Δz) and KL(dense‖pruned); NULL below 10 points
--     [-1 to 1]
--   pearson_log10_var_q_kl: Correlation of the logarithms of Var_q(Δz) and KL(dense‖pruned); NULL below 10 points [-1
--     to 1]
--   pearson_log10_var_p_kl_pruned_dense: Correlation of the logarithms of Var_p(Δz) and KL(pruned‖dense); NULL below 10
--     points [-1 to 1]
--   pearson_log10_var_q_kl_pruned_dense: Correlation of the logarithms of Var_q(Δz) and KL(pruned‖dense); NULL below 10
--     points [-1 to 1]
--   pearson_log10_var_r_cos_p: Correlation of the logarithms of Var_r(Δz) and the cosine defect of p; NULL below 10
--     points [-1 to 1]
--   pearson_log10_var_rq_cos_p: Correlation of the logarithms of Var_rq(Δz), rq = q²/‖q‖², and the cosine defect of p;
--     NULL below 10 points [-1 to 1]
--   pearson_log10_var_uniform_cos_p: Correlation of the logarithms of Var_u(Δz) and the cosine defect of p; NULL below
--     10 points [-1 to 1]
with positions as (
    select
        model, recipe, sublayer, scope, lens, var_p_dz, var_r_dz, var_q_dz, var_uniform_dz,
        var_p_dz / (2 * temperature ** 2) as p_estimate,
        var_q_dz / (2 * temperature ** 2) as q_estimate,
        nullif(kl_dense_pruned_nats, 0) as kl,
        nullif(kl_pruned_dense_nats, 0) as kl_pruned_dense,
        log10_positive(var_p_dz) as log_var_p,
        log10_positive(var_r_dz) as log_var_r,
        log10_positive(var_q_dz) as log_var_q,
        log10_positive(var_rq_dz) as log_var_rq,
        log10_positive(var_uniform_dz) as log_var_uniform,
        log10_positive(kl_dense_pruned_nats) as log_kl,
        log10_positive(kl_pruned_dense_nats) as log_kl_pruned_dense,
        log10_positive(one_minus_cos_p) as log_one_minus_cos_p
    from representation_shifts
    where var_uniform_dz > 0
)

select
    model, recipe, sublayer, scope, lens,
    count(*) as n,
    median(cast(var_p_dz / var_uniform_dz as float)) as p_over_uniform_median,
    median(cast(var_r_dz / var_uniform_dz as float)) as r_over_uniform_median,
    median(cast(var_q_dz / nullif(var_p_dz, 0) as float)) as q_over_p_median,
    median(cast(p_estimate / kl as float)) as p_estimate_over_kl_median,
    median(cast(q_estimate / kl as float)) as q_estimate_over_kl_median,
    median(cast(p_estimate / kl_pruned_dense as float)) as p_estimate_over_kl_pruned_dense_median,
    median(cast(q_estimate / kl_pruned_dense as float)) as q_estimate_over_kl_pruned_dense_median,
    correlation(log_var_p, log_kl) as pearson_log10_var_p_kl,
    correlation(log_var_uniform, log_kl) as pearson_log10_var_uniform_kl,
    correlation(log_var_q, log_kl) as pearson_log10_var_q_kl,
    correlation(log_var_p, log_kl_pruned_dense) as pearson_log10_var_p_kl_pruned_dense,
    correlation(log_var_q, log_kl_pruned_dense) as pearson_log10_var_q_kl_pruned_dense,
    correlation(log_var_r, log_one_minus_cos_p) as pearson_log10_var_r_cos_p,
    correlation(log_var_rq, log_one_minus_cos_p) as pearson_log10_var_rq_cos_p,
    correlation(log_var_uniform, log_one_minus_cos_p) as pearson_log10_var_uniform_cos_p
from positions
group by all
order by model, recipe, scope, lens, sublayer
