-- The damage of each variant to texts and choices, in seven measures, each with its interval.
-- grain: one row per model × recipe × measure that was taken.
-- key: model, recipe, measure
-- inputs: variant_summary, damage_influences, top1_changes, generations_without_noise, trajectory_gaps,
--   reference_temperature
-- how to read: at the reference temperature, over the study's prompts and questions. Shares of prompts and questions
--   have Wilson's interval; shares of tokens have Wilson's with an effective number of tokens, clustered by prompt.
--   Nats at the first token have Student's t over the prompts on a logarithmic scale, NULL below 2 prompts or if none
--   deviates; the growth of the KL, which may be negative, has the same on a linear scale. The median first flip has
--   the order statistics that the sign test does not reject (place_of_median_low), NULL below 6 prompts. A prompt that
--   never flips counts as later than any step. If that is the median or an end of its interval, the number is NULL;
--   amount_low alone then says until when at least half of the texts are surely equal. Intervals are not corrected for
--   the number of variants. Noise variants are excluded.
-- reason: charts and comparisons of variants need one agreed list of measures and their uncertainty.
-- columns:
--   measure: top1_change, the share of steps with another most likely token; kl_step0_nats at the first token;
--     kl_growth_nats, the mean over prompts that flip of KL on its own text minus teacher forced, after the flip;
--     flipped_share and collapsed_share of prompts; first_flip_step_median; options_changed_share of questions [label]
--   amount: The measure [share, nats or step]
--   amount_low: Lower end of its 95 % interval over the units [share, nats or step]
--   n_units: Number of prompts or questions [prompts or questions]
--   is_comparable: Whether variants can be compared by it: more is worse, and damage_influences has the measure
with measures as (
    -- Row i gets entry i of every unnested list.
    select
        totals.model, totals.recipe,
        unnest([
            'top1_change',
            'kl_step0_nats',
            'flipped_share',
            'collapsed_share',
            'options_changed_share'
        ]) as measure,
        unnest([
            1 - totals.top1_agreement,
            totals.kl_step0_nats,
            totals.prompts_flipped / nullif(totals.prompts, 0),
            totals.prompts_collapsed / nullif(totals.prompts, 0),
            1 - totals.options_argmax_kept / nullif(totals.questions, 0)
        ]) as amount,
        unnest([
            [changes.top1_change_low, changes.top1_change_high],
            null,
            wilson_interval(totals.prompts_flipped, totals.prompts),
            wilson_interval(totals.prompts_collapsed, totals.prompts),
            wilson_interval(totals.questions - totals.options_argmax_kept, totals.questions)
        ]) as by_count
    from variant_summary as totals
    left join top1_changes as changes using (model, recipe)
),

spreads as (
    select
        model, recipe, measure,
        count(*) as n_units,
        half_width_over_clusters(influence) as half_width
    from damage_influences
    group by all
),

ends as (
    select
        measures.*,
        spreads.n_units,
        interval_of_positive_mean(measures.amount, spreads.half_width) as by_size
    from measures
    left join spreads using (model, recipe, measure)
    where measures.amount is not null
),

comparable as (
    select
        *,
        coalesce(by_count, case when measure = 'kl_step0_nats' then by_size end) as ends
    from ends
),

growths as (
    select
        gaps.model, gaps.recipe,
        mean_over_units(gaps.own_minus_forced_nats) as growth
    from trajectory_gaps as gaps
    inner join reference_temperature using (model, recipe)
    group by all
),

first_flips as (
    select
        model, recipe,
        -- Infinity means "never".
        list_sort(list(coalesce(cast(first_flip_step as double), cast('inf' as double)))) as steps,
        place_of_median_low(count(*)) as place_low
    from generations_without_noise
    group by all
),

flip_intervals as (
    select
        totals.model, totals.recipe,
        totals.first_flip_step_median as amount,
        nullif(interval_of_median(first_flips.steps, first_flips.place_low)[1], cast('inf' as double)) as amount_low,
        nullif(interval_of_median(first_flips.steps, first_flips.place_low)[2], cast('inf' as double)) as amount_high,
        len(first_flips.steps) as n_units
    from variant_summary as totals
    inner join first_flips using (model, recipe)
)

select
    model, recipe, measure, amount,
    ends[1] as amount_low,
    ends[2] as amount_high,
    n_units,
    true as is_comparable
from comparable

union all

select
    model, recipe,
    'kl_growth_nats' as measure,
    growth.mean as amount,
    growth.mean - growth.half_width as amount_low,
    growth.mean + growth.half_width as amount_high,
    growth.units as n_units,
    false as is_comparable
from growths
where growth.units > 0

union all

select
    model, recipe,
    'first_flip_step_median' as measure,
    amount, amount_low, amount_high, n_units,
    false as is_comparable
from flip_intervals
where amount is not null or amount_low is not null
order by model, recipe, measure
