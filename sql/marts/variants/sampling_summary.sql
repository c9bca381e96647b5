-- What the sampled texts of each variant show: when they part from the dense model's, as measured and as expected, how
-- many are right, and how many loop.
-- grain: one row per variant with sampled texts; dense and noise variants included.
-- key: model, recipe
-- inputs: sampling_survival, stg_sampled_generations, stg_sampled_steps, noise_variants
-- how to read: every text is paired with a dense one drawn with the same random numbers. equal_share is the share of
--   texts that never part. The median first flips are the steps at which half of the texts have parted, NULL if half
--   never do; their bounds are the steps at which the bounds of sampling_survival reach half. correct_share and
--   collapsed_share are over texts. Their differences are variant minus dense, paired text by text, with intervals over
--   prompts (Student's t; NULL below 2 prompts or if no prompt deviates). Rows with is_noise show rounding alone: texts
--   that part there are not damaged.
-- reason: a greedy text is one draw; sampled ones say how a model behaves in use, with intervals.
-- columns:
--   is_noise: Whether the variant is the dense model with other rounding
--   prompts: Prompts [prompts]
--   texts_flipped: Texts that part from the dense one [texts]
--   flips_expected: Sum of flip_probability over all steps before texts part, to which texts_flipped must be close
--     [texts]
--   equal_share: Share of texts that never part [share]
--   first_flip_step_median: Step at which half of the texts have parted; NULL if half never do [step]
--   first_flip_step_median_low: Lower end of its 95 % interval, at which a bound of sampling_survival reaches half
--     [step]
--   first_flip_step_median_high: Upper end of it; NULL if it is beyond the last step [step]
--   first_flip_step_median_expected: The same, expected from the distributions [step]
--   total_variation_mean: Mean total variation over the steps before texts part [probability]
--   texts_graded: Texts with a known answer [texts]
--   correct_share: Share of them that are right [share]
--   correct_share_dense: Share of the dense model's that are right [share]
--   correct_difference: Share of right texts, variant minus dense [share]
--   correct_difference_low: Lower end of its 95 % interval, Student's t over prompts [share]
--   collapsed_share: Share of texts that end in a loop [share]
--   collapsed_share_dense: Share of the dense model's that do [share]
--   collapsed_difference: Share of looping texts, variant minus dense [share]
--   collapsed_difference_low: Lower end of its 95 % interval, Student's t over prompts [share]
with

-- Beyond the step at which the last text parts, nothing is expected.
curves as (
    select
        *,
        equal_share_expected is not null as has_hazard
    from sampling_survival
),

medians as (
    select
        model, recipe,
        arg_max_null(equal_share, step) as equal_share,
        arg_max_null(equal_share_low, step) as equal_share_low,
        arg_max_null(equal_share_high, step) as equal_share_high,
        arg_max_null(equal_share_expected, step) filter (where has_hazard) as equal_share_expected,
        arg_max_null(equal_share_expected_low, step) filter (where has_hazard) as equal_share_expected_low,
        arg_max_null(equal_share_expected_high, step) filter (where has_hazard) as equal_share_expected_high,
        sum(flips_expected) as flips_expected,
        min(step) filter (where equal_share <= 0.5) as first_flip_step_median,
        min(step) filter (where equal_share_low <= 0.5) as first_flip_step_median_low,
        min(step) filter (where equal_share_high <= 0.5) as first_flip_step_median_high,
        min(step) filter (where equal_share_expected <= 0.5) as first_flip_step_median_expected
    from curves
    group by all
),

distances as (
    select
        model, recipe,
        avg(total_variation) as total_variation_mean
    from stg_sampled_steps
    where trajectory = 'teacher_forced' and flip_probability is not null
    group by all
),

-- Each text with the dense text of the same sample.
pairs as (
    select
        own.model, own.recipe, own.prompt_id, own.temperature, own.top_p, own.first_flip_step,
        cast(own.is_correct as integer) as correct,
        cast(dense.is_correct as integer) as correct_dense,
        cast(own.collapse_step is not null as integer) as collapsed,
        cast(dense.collapse_step is not null as integer) as collapsed_dense
    from stg_sampled_generations as own
    inner join stg_sampled_generations as dense using (model, prompt_id, sample)
    where dense.recipe = 'dense'
),

totals as (
    select
        model, recipe,
        any_value(temperature) as temperature,
        any_value(top_p) as top_p,
        count(distinct prompt_id) as prompts,
        count(*) as texts,
        count(first_flip_step) as texts_flipped,
        count(correct) as texts_graded,
        avg(correct) as correct_share,
        avg(correct_dense) as correct_share_dense,
        avg(collapsed) as collapsed_share,
        avg(collapsed_dense) as collapsed_share_dense
    from pairs
    group by all
),

-- What each prompt adds to a difference beyond its expected part.
influences as (
    select
        pairs.model, pairs.recipe, pairs.prompt_id,
        sum(pairs.correct - pairs.correct_dense - totals.correct_share + totals.correct_share_dense)
        / nullif(any_value(totals.texts_graded), 0) as on_correct,
        sum(pairs.collapsed - pairs.collapsed_dense - totals.collapsed_share + totals.collapsed_share_dense)
        / any_value(totals.texts) as on_collapsed
    from pairs
    inner join totals using (model, recipe)
    group by all
),

spreads as (
    select
        model, recipe,
        half_width_over_clusters(on_correct) as half_width_correct,
        half_width_over_clusters(on_collapsed) as half_width_collapsed
    from influences
    group by all
)

select
    totals.model, totals.recipe,
    noise_variants.recipe is not null as is_noise,
    totals.temperature, totals.top_p, totals.prompts, totals.texts, totals.texts_flipped, medians.flips_expected,
    medians.equal_share, medians.equal_share_low, medians.equal_share_high, medians.equal_share_expected,
    medians.equal_share_expected_low, medians.equal_share_expected_high, medians.first_flip_step_median,
    medians.first_flip_step_median_low, medians.first_flip_step_median_high, medians.first_flip_step_median_expected,
    distances.total_variation_mean, totals.texts_graded, totals.correct_share, totals.correct_share_dense,
    totals.correct_share - totals.correct_share_dense as correct_difference,
    totals.correct_share - totals.correct_share_dense - spreads.half_width_correct as correct_difference_low,
    totals.correct_share - totals.correct_share_dense + spreads.half_width_correct as correct_difference_high,
    totals.collapsed_share, totals.collapsed_share_dense,
    totals.collapsed_share - totals.collapsed_share_dense as collapsed_difference,
    totals.collapsed_share - totals.collapsed_share_dense - spreads.half_width_collapsed as collapsed_difference_low,
    totals.collapsed_share - totals.collapsed_share_dense + spreads.half_width_collapsed as collapsed_difference_high
from totals
left join medians using (model, recipe)
left join distances using (model, recipe)
left join spreads using (model, recipe)
left join noise_variants using (model, recipe)
