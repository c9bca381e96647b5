-- The share of sampled texts that still equal the dense model's, step by step: as measured, and as expected from the
-- two distributions of every step.
-- grain: one row per variant × step, to the model's longest sampled text; dense and noise variants included.
-- key: model, recipe, step
-- inputs: stg_sampled_generations, stg_sampled_steps
-- how to read: both models draw with the same random numbers, so texts part only if the distributions differ.
--   equal_share counts the texts that have not parted up to and including the step; a text that ended unparted stays
--   equal. equal_share_expected is the product of 1 − hazard over the steps. The hazard of a step is the mean
--   flip_probability of the texts that are still equal, where texts that have ended count as 0. equal_share_expected is
--   NULL from the step before which no text is equal any more. Intervals take prompts as the independent units, because
--   samples of one prompt are alike. They are Student's t, NULL below 2 prompts. If all texts or none are equal, the
--   measured curve has Wilson's interval over the prompts, and the expected one none. The expected curve rests on
--   probabilities instead of draws; the measured one must agree with it within their intervals, or the sampler is
--   wrong.
-- reason: this view alone follows sampled texts until they part. The view is long because both curves have intervals
--   over prompts.
-- columns:
--   texts: Sampled texts, prompts × samples [texts]
--   prompts: Prompts that they come from [prompts]
--   texts_at_risk: Texts that are equal before the step, ended ones included [texts]
--   flips: Texts that part at the step [texts]
--   flips_expected: Sum of flip_probability over the texts that are equal before the step [texts]
--   equal_share: Share of texts equal up to and including the step [share]
--   equal_share_low: Lower end of its 95 % interval, Student's t or Wilson's over prompts [share]
--   equal_share_expected: The same, expected from the distributions [share]
--   equal_share_expected_low: Lower end of its 95 % interval, Student's t over prompts [share]
with horizons as (
    select
        model,
        unnest(range(max(step) + 1)) as step
    from stg_sampled_steps
    where trajectory = 'teacher_forced'
    group by model
),

-- Texts that part at each step, by prompt.
flips_by_prompt as (
    select
        model, recipe, prompt_id,
        first_flip_step as step,
        count(*) as flips
    from stg_sampled_generations
    where first_flip_step is not null
    group by all
),

hazards as (
    select
        model, recipe, prompt_id, step,
        sum(flip_probability) as flips_expected
    from stg_sampled_steps
    where trajectory = 'teacher_forced'
    group by all
),

prompts as (
    select
        model, recipe, prompt_id,
        count(*) as texts
    from stg_sampled_generations
    group by all
),

prompt_steps as (
    select
        prompts.*,
        horizons.step,
        coalesce(flips_by_prompt.flips, 0) as flips,
        coalesce(hazards.flips_expected, 0) as flips_expected,
        prompts.texts - coalesce(sum(flips_by_prompt.flips) over earlier, 0) as at_risk
    from prompts
    inner join horizons using (model)
    left join flips_by_prompt using (model, recipe, prompt_id, step)
    left join hazards using (model, recipe, prompt_id, step)
    window
        earlier as (
            partition by prompts.model, prompts.recipe, prompts.prompt_id
            order by horizons.step
            rows between unbounded preceding and 1 preceding
        )
),

sums as (
    select
        model, recipe, step,
        count(*) as prompts,
        sum(texts) as texts,
        sum(at_risk) as at_risk,
        sum(flips) as flips,
        sum(flips_expected) as flips_expected,
        sum(flips_expected) / nullif(sum(at_risk), 0) as hazard
    from prompt_steps
    group by all
),

curves as (
    select
        *,
        (at_risk - flips) / texts as equal_share,
        case when at_risk > 0 then product(1 - hazard) over steps_so_far end as equal_share_expected
    from sums
    window steps_so_far as (partition by model, recipe order by step)
),

-- What each prompt adds to either curve beyond its expected part.
influences as (
    select
        prompt_steps.model, prompt_steps.recipe, prompt_steps.step,
        (prompt_steps.at_risk - prompt_steps.flips - prompt_steps.texts * curves.equal_share)
        / curves.texts as on_measured,
        -curves.equal_share_expected * sum(
            (prompt_steps.flips_expected - prompt_steps.at_risk * curves.hazard)
            / nullif(curves.at_risk * (1 - curves.hazard), 0)
        ) over (
            partition by prompt_steps.model, prompt_steps.recipe, prompt_steps.prompt_id
            order by prompt_steps.step
        ) as on_expected
    from prompt_steps
    inner join curves using (model, recipe, step)
),

spreads as (
    select
        model, recipe, step,
        half_width_over_clusters(on_measured) as half_width,
        half_width_over_clusters(on_expected) as half_width_expected
    from influences
    group by all
)

select
    curves.model, curves.recipe, curves.step,
    cast(curves.texts as bigint) as texts,
    curves.prompts,
    cast(curves.at_risk as bigint) as texts_at_risk,
    cast(curves.flips as bigint) as flips,
    curves.flips_expected, curves.equal_share,
    case
        when curves.equal_share in (0, 1) then wilson_interval(curves.equal_share * curves.prompts, curves.prompts)[1]
        else within_0_and_1(curves.equal_share - spreads.half_width)
    end as equal_share_low,
    case
        when curves.equal_share in (0, 1) then wilson_interval(curves.equal_share * curves.prompts, curves.prompts)[2]
        else within_0_and_1(curves.equal_share + spreads.half_width)
    end as equal_share_high,
    curves.equal_share_expected,
    within_0_and_1(curves.equal_share_expected - spreads.half_width_expected) as equal_share_expected_low,
    within_0_and_1(curves.equal_share_expected + spreads.half_width_expected) as equal_share_expected_high
from curves
inner join spreads using (model, recipe, step)
