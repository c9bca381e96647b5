-- The damage of each variant to texts and choices, in six measures, each with its interval; more is worse.
-- grain: one row per model × recipe × measure that was taken.
-- key: model, recipe, measure
-- inputs: variant_summary, damage_influences, top1_changes
-- how to read: at the reference temperature, over the study's prompts and questions. The intervals are Wilson's for
--   shares of prompts and of questions, and for tokens Wilson's with an effective number of tokens, clustered by
--   prompt; for nats Student's t over the prompts on a logarithmic scale, NULL below 2 prompts or where none deviates.
--   They are not corrected for the number of variants. Noise variants are excluded.
-- reason: charts and comparisons of variants need one agreed list of measures and of how uncertain they are.
-- columns:
--   measure: top1_change, the share of steps with another most likely token; kl_step0_nats at the first token;
--     kl_free_running_median_nats with each model on its own tokens; flipped_share and collapsed_share of prompts;
--     options_changed_share of questions [label]
--   amount: The measure; more is worse [share or nats]
--   amount_low: Lower end of its 95 % interval, Wilson's or Student's t over the units [share or nats]
--   amount_high: Upper end of its 95 % interval, Wilson's or Student's t over the units [share or nats]
--   n_units: Number of prompts or questions [prompts or questions]
with

measures as (
    -- Lists unnested in one select are expanded in parallel.
    select
        totals.model,
        totals.recipe,
        unnest([
            'top1_change',
            'kl_step0_nats',
            'kl_free_running_median_nats',
            'flipped_share',
            'collapsed_share',
            'options_changed_share'
        ]) as measure,
        unnest([
            1 - totals.top1_agreement,
            totals.kl_step0_nats,
            totals.kl_free_running_median_nats,
            totals.prompts_flipped / nullif(totals.prompts, 0),
            totals.prompts_collapsed / nullif(totals.prompts, 0),
            1 - totals.options_argmax_kept / nullif(totals.questions, 0)
        ]) as amount,
        unnest([
            [changes.top1_change_low, changes.top1_change_high],
            null,
            null,
            wilson_interval(totals.prompts_flipped, totals.prompts),
            wilson_interval(totals.prompts_collapsed, totals.prompts),
            wilson_interval(totals.questions - totals.options_argmax_kept, totals.questions)
        ]) as by_count
    from variant_summary as totals
    left join top1_changes as changes
        on totals.model = changes.model and totals.recipe = changes.recipe
),

spreads as (
    select
        model,
        recipe,
        measure,
        count(*) as n_units,
        half_width_over_clusters(influence) as half_width
    from damage_influences
    group by model, recipe, measure
),

ends as (
    select
        measures.model,
        measures.recipe,
        measures.measure,
        measures.amount,
        measures.by_count,
        spreads.n_units,
        interval_of_positive_mean(measures.amount, spreads.half_width) as by_size
    from measures
    left join spreads
        on
            measures.model = spreads.model
            and measures.recipe = spreads.recipe
            and measures.measure = spreads.measure
    where measures.amount is not null
)

select
    model,
    recipe,
    measure,
    amount,
    coalesce(by_count, case when ends_with(measure, '_nats') then by_size end)[1] as amount_low,
    coalesce(by_count, case when ends_with(measure, '_nats') then by_size end)[2] as amount_high,
    n_units
from ends
order by model, recipe, measure
