-- Shift in p and KL at each temperature of the softmax, over prompts and generated tokens.
-- grain: one row per model × recipe × trajectory × temperature.
-- inputs: decoding_curve
select
    model, recipe, trajectory, temperature,
    median(one_minus_cos_p) as one_minus_cos_p_median,
    quantile_cont(one_minus_cos_p, 0.1) as one_minus_cos_p_p10,
    quantile_cont(one_minus_cos_p, 0.9) as one_minus_cos_p_p90,
    median(kl_dense_pruned_nats) as kl_median,
    quantile_cont(kl_dense_pruned_nats, 0.1) as kl_p10,
    quantile_cont(kl_dense_pruned_nats, 0.9) as kl_p90,
    count(*) as tokens
from decoding_curve
where recipe <> 'dense' and trajectory in ('teacher_forced', 'own_text')
group by all
order by model asc, recipe asc, trajectory desc, temperature asc
