-- Do tokens flip as often as margin and Var_p(Δz) predict?
-- grain: one row per model × recipe × decile of the prediction.
-- key: model, recipe, decile
-- inputs: greedy_hazards, noise_variants
-- how to read: in each decile, flip_share should be close to flip_probability. Its interval, over prompts, should
--   contain flip_probability in 19 of 20 deciles. All rows are predictions for later steps of other prompts than those
--   of the fit. The dense recipe and noise variants are excluded.
-- reason: a mean score hides where a hazard is wrong.
-- columns:
--   n: Steps [steps]
--   prompts: Prompts that they come from [prompts]
--   margin_over_shift: Mean margin of the first token over the typical shift against it [ratio]
--   flip_probability: Mean predicted probability [probability]
--   flip_share: Share of the steps at which the two models differ [share]
--   flip_share_low: Lower end of its 95 % interval, Wilson's over prompts [share]
with prompts as (
    select
        greedy_hazards.model, greedy_hazards.recipe, greedy_hazards.decile, greedy_hazards.prompt_id,
        count(*) as n,
        count(*) filter (where greedy_hazards.is_flip) as flips,
        sum(greedy_hazards.margin_over_shift) as margin_over_shift,
        sum(greedy_hazards.flip_probability) as flip_probability
    from greedy_hazards
    anti join noise_variants using (model, recipe)
    group by all
)

select
    model, recipe, decile,
    cast(sum(n) as bigint) as n,
    count(*) as prompts,
    sum(margin_over_shift) / sum(n) as margin_over_shift,
    sum(flip_probability) / sum(n) as flip_probability,
    sum(flips) / sum(n) as flip_share,
    wilson_interval_over_clusters(flips, n)[1] as flip_share_low,
    wilson_interval_over_clusters(flips, n)[2] as flip_share_high
from prompts
group by all
order by model, recipe, decile
