-- The noise level of the KL at the output: rounding alone stays below it in 95 of 100 steps.
-- grain: one row per model × temperature.
-- key: model, temperature
-- inputs: noise_at_output
-- how to read: the largest kl_p95_nats of the model's noise variants at this temperature, teacher forced.
-- reason: single definition of the noise level that decoding_curve and variant_summary compare with.
-- columns:
--   kl_noise_p95_nats: 95th percentile of the KL that rounding alone causes, the largest over noise variants [nats]
select
    model, temperature,
    max(kl_p95_nats) as kl_noise_p95_nats
from noise_at_output
group by all
