-- How much the steps from h to z and from z to p amplify the shift after one changed sublayer, for each lens.
-- grain: one row per model × lens × is_noise.
-- key: model, lens, is_noise
-- inputs: local_transitions
-- how to read: over all positions of local_transitions. A position without a shift in h or z has no factor and is left
--   out, as is a null whose rows hold zeros. Medians and shares are over positions, because a few extreme positions
--   would decide a mean. The intervals are clustered by prompt.
-- reason: the claim that the softmax amplifies, and the finding about it, need the same numbers and the same null.
-- columns:
--   is_noise: Whether the rows are those of the null
--   positions: Variants × prompts × positions × layers × sublayers whose h and z moved [positions]
--   prompts: Prompts that they come from [prompts]
--   sublayers: Sublayers that they follow [sublayers]
--   one_minus_cos_h: Median over positions [1 - cosine]
--   one_minus_cos_z: Median over positions [1 - cosine]
--   one_minus_cos_p: Median over positions [1 - cosine]
--   h_to_z_median: Median factor; above 1 the step amplifies [ratio] = (1 − cos z)/(1 − cos h)
--   z_to_p_median: Median factor; above 1 the step amplifies [ratio] = (1 − cos p)/(1 − cos z)
--   share_amplified: Share of positions whose z to p factor is above 1 [share]
--   share_amplified_low: Lower end of its 95 % interval, Wilson's clustered by prompt [share]
with moved as (
    select
        model, lens, is_noise, is_rounding, prompt_id,
        row(layer, sublayer) as place,
        cast(one_minus_cos_h as double) as h,
        cast(one_minus_cos_z as double) as z,
        cast(one_minus_cos_p as double) as p
    from local_transitions
    where one_minus_cos_h > 0 and one_minus_cos_z > 0
),

prompts as (
    select
        model, lens, is_noise,
        count(*) as positions,
        count_if(p > z) as amplified
    from moved
    group by model, lens, is_noise, prompt_id
),

shares as (
    select
        model, lens, is_noise,
        count(*) as prompts,
        sum(amplified) / sum(positions) as share_amplified,
        wilson_interval_over_clusters(amplified, positions) as ends
    from prompts
    group by all
),

medians as (
    select
        model, lens, is_noise,
        bool_or(is_rounding) as is_rounding,
        count(*) as positions,
        count(distinct place) as sublayers,
        median(h) as one_minus_cos_h,
        median(z) as one_minus_cos_z,
        median(p) as one_minus_cos_p,
        median(z / h) as h_to_z_median,
        median(p / z) as z_to_p_median
    from moved
    group by all
)

select
    medians.model, medians.lens, medians.is_noise, medians.is_rounding, medians.positions, shares.prompts,
    medians.sublayers, medians.one_minus_cos_h, medians.one_minus_cos_z, medians.one_minus_cos_p, medians.h_to_z_median,
    medians.z_to_p_median, shares.share_amplified,
    shares.ends[1] as share_amplified_low,
    shares.ends[2] as share_amplified_high
from medians
inner join shares using (model, lens, is_noise)
