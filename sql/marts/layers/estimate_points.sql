-- The second-order estimates of Theorems 1 to 3 and the quantities that they estimate.
-- grain: one row per model × recipe × prompt × position × layer × sublayer × scope × lens × temperature × theorem.
-- key: model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature, theorem
-- inputs: transitions_without_noise
-- how to read: `T1 h` and `T1 z` estimate 1 − cos of h and z and do not depend on T, `T2 p` estimates 1 − cos of p, `T3
--   KL` estimates KL(dense‖pruned) in nats. Rows whose truth is 0 (dense, untouched sublayers in local scope) are
--   excluded, because there is nothing to estimate. Noise variants are excluded, because the theorems are about
--   pruning.
-- reason: one long table serves every question about the fit; a filter on `theorem` reads only that branch.
-- columns:
--   theorem: Name of the estimate: T1 h, T1 z, T2 p or T3 KL
--   estimate: Value of the estimate [1 - cosine; nats for T3 KL] = t1_h, t1_z, t2_p or t3_kl_nats
--   truth: Quantity that it estimates, above 0 [1 - cosine; nats for T3 KL] = one_minus_cos_h, _z, _p or
--     kl_dense_pruned_nats
select
    model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature,
    'T1 h' as theorem,
    t1_h as estimate,
    one_minus_cos_h as truth
from transitions_without_noise
where one_minus_cos_h > 0

union all

select
    model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature,
    'T1 z' as theorem,
    t1_z as estimate,
    one_minus_cos_z as truth
from transitions_without_noise
where one_minus_cos_z > 0

union all

select
    model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature,
    'T2 p' as theorem,
    t2_p as estimate,
    one_minus_cos_p as truth
from transitions_without_noise
where one_minus_cos_p > 0

union all

select
    model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature,
    'T3 KL' as theorem,
    t3_kl_nats as estimate,
    kl_dense_pruned_nats as truth
from transitions_without_noise
where kl_dense_pruned_nats > 0
