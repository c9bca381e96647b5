-- Does it matter that the variance of Δz is weighted by the dense probabilities?
-- grain: one row per model × recipe × sublayer × scope × lens.
-- key: model, recipe, sublayer, scope, lens
-- inputs: representation_shifts
-- how to read: p_over_uniform is Var_p(Δz) / Var_u(Δz) and r_over_uniform Var_r(Δz) / Var_u(Δz); below 1 the likely
--   tokens move less than the vocabulary as a whole. The correlations (log10, NULL below 10 points) say how closely
--   each variance follows the KL, and Var_r and Var_u the cosine defect of p. Dense rows, untouched sublayers in local
--   scope and positions without a shift are excluded. All at the reference temperature.
-- reason: an unweighted variance is simpler to analyse; this shows what it loses.
-- columns:
--   n: Positions with a shift [positions]
--   p_over_uniform_median: Median of the p-weighted over the unweighted variance [ratio] = Var_p(Δz)/Var_u(Δz)
--   r_over_uniform_median: Median of the r-weighted over the unweighted variance [ratio] = Var_r(Δz)/Var_u(Δz)
--   pearson_log10_var_p_kl: Correlation of the logarithms of Var_p(Δz) and KL(dense‖pruned); NULL below 10 points [-1
--     to 1]
--   pearson_log10_var_uniform_kl: Correlation of the logarithms of Var_u(Δz) and KL(dense‖pruned); NULL below 10 points
--     [-1 to 1]
--   pearson_log10_var_r_cos_p: Correlation of the logarithms of Var_r(Δz) and the cosine defect of p; NULL below 10
--     points [-1 to 1]
--   pearson_log10_var_uniform_cos_p: Correlation of the logarithms of Var_u(Δz) and the cosine defect of p; NULL below
--     10 points [-1 to 1]
with

positions as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        var_p_dz,
        var_r_dz,
        var_uniform_dz,
        log10_positive(var_p_dz) as log_var_p,
        log10_positive(var_r_dz) as log_var_r,
        log10_positive(var_uniform_dz) as log_var_uniform,
        log10_positive(kl_dense_pruned_nats) as log_kl,
        log10_positive(one_minus_cos_p) as log_one_minus_cos_p
    from representation_shifts
    where var_uniform_dz > 0
)

select
    model,
    recipe,
    sublayer,
    scope,
    lens,
    count(*) as n,
    median(cast(var_p_dz / var_uniform_dz as float)) as p_over_uniform_median,
    median(cast(var_r_dz / var_uniform_dz as float)) as r_over_uniform_median,
    correlation(log_var_p, log_kl) as pearson_log10_var_p_kl,
    correlation(log_var_uniform, log_kl) as pearson_log10_var_uniform_kl,
    correlation(log_var_r, log_one_minus_cos_p) as pearson_log10_var_r_cos_p,
    correlation(log_var_uniform, log_one_minus_cos_p) as pearson_log10_var_uniform_cos_p
from positions
group by model, recipe, sublayer, scope, lens
order by model, recipe, scope, lens, sublayer
