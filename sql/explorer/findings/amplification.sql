-- Shift of h, z and p after one changed sublayer, the factor of each step, and the same for noise.
-- grain: one row per model × lens.
-- inputs: local_amplification, paper_claims
select
    pruned.model, pruned.lens, pruned.positions,
    pruned.one_minus_cos_h as h,
    pruned.one_minus_cos_z as z,
    pruned.one_minus_cos_p as p,
    pruned.z_to_p_median, pruned.share_amplified, pruned.share_amplified_low, pruned.share_amplified_high,
    noise.z_to_p_median as noise_z_to_p_median,
    noise.share_amplified as noise_share_amplified,
    claims.verdict
from local_amplification as pruned
left join local_amplification as noise
    on pruned.model = noise.model and pruned.lens = noise.lens and noise.is_noise
left join paper_claims as claims
    on pruned.model = claims.model and pruned.lens = claims.measure and claims.claim = 'softmax_amplifies'
where not pruned.is_noise
order by pruned.model asc, pruned.lens desc
