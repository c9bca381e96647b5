-- The share of greedy texts that still equal the dense model's, step by step, computed without generating them.
-- grain: one row per variant × step at which a text is at risk; noise variants included.
-- key: model, recipe, step
-- inputs: greedy_steps, noise_variants
-- how to read: a greedy text flips at its first teacher-forced disagreement. A text is at risk at a step that it
--   reaches without a flip; a text that ends leaves the risk set (Kaplan and Meier, doi 10.2307/2281868), as if ends
--   were independent of flips. The interval is Wilson's with Peto's number of texts: texts_at_risk over the share
--   before the step (doi 10.1038/bjc.1977.1). Without ends that is the number of texts; with many ends the interval is
--   a little wide.
-- reason: the curve needs one forced pass; noise variants show what rounding alone does to it.
-- columns:
--   is_noise: Whether the variant is the dense model with other rounding
--   texts_at_risk: Texts, one per prompt, that are equal before the step and reach it [texts]
--   flips: Texts that flip at the step [texts]
--   hazard: Share of the texts at risk that flip [share] = flips / texts_at_risk
--   equal_share: Share of texts equal up to and including the step = product of 1 − hazard [share]
--   equal_share_low: Lower end of its 95 % interval, Wilson's with Peto's number of texts [share]
with at_risk as (
    select *
    from greedy_steps
    qualify step <= coalesce(min(step) filter (where is_flip) over (partition by model, recipe, prompt_id), step)
),

counts as (
    select
        model, recipe, step,
        count(*) as texts_at_risk,
        count(*) filter (where is_flip) as flips
    from at_risk
    group by all
),

curves as (
    select
        *,
        product(1 - flips / texts_at_risk) over steps_so_far as equal_share,
        coalesce(product(1 - flips / texts_at_risk) over earlier, 1) as equal_share_before
    from counts
    window
        steps_so_far as (partition by model, recipe order by step),
        earlier as (
            partition by model, recipe order by step rows between unbounded preceding and 1 preceding
        )
)

select
    curves.model, curves.recipe,
    noise_variants.recipe is not null as is_noise,
    curves.step, curves.texts_at_risk, curves.flips,
    curves.flips / curves.texts_at_risk as hazard,
    curves.equal_share,
    wilson_interval(curves.texts_at_risk - curves.flips, curves.texts_at_risk / curves.equal_share_before)[1]
        as equal_share_low,
    wilson_interval(curves.texts_at_risk - curves.flips, curves.texts_at_risk / curves.equal_share_before)[2]
        as equal_share_high
from curves
left join noise_variants using (model, recipe)
