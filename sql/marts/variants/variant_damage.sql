-- The damage of each variant to texts and choices, in six measures, each with its interval; more is worse.
-- grain: one row per model × recipe × measure that was taken.
-- key: model, recipe, measure
-- inputs: variant_summary, damage_influences, decoding_at_reference
-- how to read: at the reference temperature, over the study's prompts and questions. The intervals are those of
--   variant_verdict where it has them: Wilson's for shares of prompts and of questions; Student's t over the prompts
--   for nats, NULL below 5 prompts or where none deviates; for tokens Student's t over the prompts, or else Wilson's
--   over the tokens. Noise variants are excluded.
-- reason: charts and comparisons of variants need one agreed list of measures and of how uncertain they are.
-- columns:
--   measure: top1_change, the share of steps with another most likely token; kl_step0_nats at the first token;
--     kl_free_running_median_nats with each model on its own tokens; flipped_share and collapsed_share of prompts;
--     options_changed_share of questions [label]
--   amount: The measure; more is worse [share or nats]
--   amount_low: Lower end of its 95 % interval [share or nats]
--   amount_high: Upper end of it [share or nats]
--   n_units: Number of prompts or questions [prompts or questions]
with

tokens as (
    select
        model,
        recipe,
        wilson_interval(count_if(not is_top1_same), count(*)) as change_by_tokens
    from decoding_at_reference
    where trajectory = 'teacher_forced'
    group by model, recipe
),

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
            tokens.change_by_tokens,
            null,
            null,
            wilson_interval(totals.prompts_flipped, totals.prompts),
            wilson_interval(totals.prompts_collapsed, totals.prompts),
            wilson_interval(totals.questions - totals.options_argmax_kept, totals.questions)
        ]) as by_count
    from variant_summary as totals
    left join tokens
        on totals.model = tokens.model and totals.recipe = tokens.recipe
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
        measures.amount - spreads.half_width as low,
        measures.amount + spreads.half_width as high
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
    case measure
        when 'top1_change' then coalesce(within_0_and_1(low), by_count[1])
        when 'kl_step0_nats' then case when low < 0 then 0 else low end
        when 'kl_free_running_median_nats' then case when low < 0 then 0 else low end
        else by_count[1]
    end as amount_low,
    case measure
        when 'top1_change' then coalesce(within_0_and_1(high), by_count[2])
        when 'kl_step0_nats' then high
        when 'kl_free_running_median_nats' then high
        else by_count[2]
    end as amount_high,
    n_units
from ends
order by model, recipe, measure
