-- How do two variants of one model differ, paired token by token?
-- grain: one row per pair of variants × text or set of prompts × temperature × statistic.
-- key: recipe_a, recipe_b, measured_on, temperature, statistic
-- inputs: stg_text_tokens, stg_decoding_steps, dense_ends, noise_variants, output_noise_ceiling
-- parameters: $1 the model; $2 the pairs, each as {a, b, prompts}: both recipes and the prompts of the same text on
--   both sides; $3 the recipes of all pairs; files of other recipes stay closed
-- how to read: a and b are the statistics of kld_summary for A and for B, over the tokens that both were measured at:
--   in a text the same text_hash, context, stride and position, T = 1; in prompts (teacher forced: both models read the
--   dense tokens) the same prompt text, dense tokens, step and temperature. difference is b − a. The independent units
--   are windows of a text, and prompts (cluster-robust). The difference has the error of the paired differences. low
--   and high are its 95 % interval by Student's t; NULL below two units and if none deviates. Percentiles and extremes
--   have no error. share_nearer is the share of tokens with the smaller KL; ties count half. noise_p95 is the 95th
--   percentile of the KL that rounding alone causes, in a text under the same conditions; NULL if it was not measured.
-- reason: only the error of a paired difference says which of two variants is better.
with requested as (
    select
        one.pair.a as recipe_a,
        one.pair.b as recipe_b,
        cast(one.pair.prompts as varchar[]) as prompts
    from (select unnest($2) as pair) as one
),

-- Tokens of texts and of prompts; two of them pair if they agree in everything but recipe and measurement.
tokens as (
    select
        recipe,
        'text ' || text_id as measured_on,
        1.0 as temperature,
        cast(window_id as varchar) as block,
        text_hash, context, stride, position,
        0 as step,
        0 as token_id_dense,
        {
            'nll': -cast(log_p_target_pruned as double),
            'delta_p': delta_p_target,
            'kl': cast(kl_dense_pruned_nats as double),
            'top1': cast(is_top1_same as integer)
        } as measured
    from stg_text_tokens
    where model = $1 and list_contains($3, recipe)

    union all

    select
        one.recipe,
        'prompts' as measured_on,
        one.temperature,
        one.prompt_id as block,
        '' as text_hash,
        0 as context,
        0 as stride,
        one.position, one.step, one.token_id_dense,
        { 'nll': null, 'delta_p': null, 'kl': one.kl_dense_pruned_nats, 'top1': one.is_top1_same } as measured
    from stg_decoding_steps as one
    anti join dense_ends
        on one.model = dense_ends.model and one.prompt_id = dense_ends.prompt_id and one.step > dense_ends.end_step
    where one.model = $1 and list_contains($3, one.recipe) and one.trajectory = 'teacher_forced'
),

pairs as (
    select
        requested.recipe_a, requested.recipe_b, a.measured_on, a.temperature, a.block,
        a.measured as a,
        b.measured as b,
        (1 + sign(b.measured['kl'] - a.measured['kl'])) / 2 as nearer_a
    from requested
    inner join tokens as a
        on requested.recipe_a = a.recipe and (a.measured_on <> 'prompts' or list_contains(requested.prompts, a.block))
    inner join tokens as b
        using (measured_on, temperature, block, text_hash, context, stride, position, step, token_id_dense)
    where requested.recipe_b = b.recipe
),

-- One row per token and statistic that is, or is a function of, a mean over tokens.
measures as (
    select
        recipe_a, recipe_b, measured_on, temperature, block,
        unnest([ -- noqa: AL03
            { 'statistic': 'ppl', 'at_a': a['nll'], 'at_b': b['nll'] },
            { 'statistic': 'ln_ppl', 'at_a': a['nll'], 'at_b': b['nll'] },
            { 'statistic': 'kl_mean_nats', 'at_a': a['kl'], 'at_b': b['kl'] },
            { 'statistic': 'delta_p_mean', 'at_a': a['delta_p'], 'at_b': b['delta_p'] },
            { 'statistic': 'delta_p_rms', 'at_a': a['delta_p'] ** 2, 'at_b': b['delta_p'] ** 2 },
            { 'statistic': 'top1_agreement', 'at_a': a['top1'], 'at_b': b['top1'] },
            { 'statistic': 'share_nearer', 'at_a': nearer_a, 'at_b': 1 - nearer_a }
        ], max_depth := 2)
    from pairs
),

-- A perplexity and a root mean square are functions of a mean: their errors are those of the mean times the slope.
means as (
    select
        recipe_a, recipe_b, measured_on, temperature, statistic,
        count(*) as tokens,
        avg(at_a) as mean_a,
        avg(at_b) as mean_b,
        case statistic when 'ppl' then exp(mean_a) when 'delta_p_rms' then sqrt(mean_a) else mean_a end as a,
        case statistic when 'ppl' then exp(mean_b) when 'delta_p_rms' then sqrt(mean_b) else mean_b end as b,
        case statistic when 'ppl' then a when 'delta_p_rms' then 0.5 / nullif(a, 0) else 1 end as slope_a,
        case statistic when 'ppl' then b when 'delta_p_rms' then 0.5 / nullif(b, 0) else 1 end as slope_b
    from measures
    where at_a is not null
    group by recipe_a, recipe_b, measured_on, temperature, statistic
),

-- What each window or prompt adds to a statistic beyond its expected part.
influences as (
    select
        means.recipe_a, means.recipe_b, means.measured_on, means.temperature, means.statistic, means.tokens, means.a,
        means.b, measures.block,
        sum(measures.at_a - means.mean_a) * any_value(means.slope_a / means.tokens) as of_a,
        sum(measures.at_b - means.mean_b) * any_value(means.slope_b / means.tokens) as of_b
    from means
    inner join measures using (recipe_a, recipe_b, measured_on, temperature, statistic)
    group by all
),

statistics as (
    select
        recipe_a, recipe_b, measured_on, temperature, statistic,
        any_value(tokens) as tokens,
        count(*) as clusters,
        any_value(a) as a,
        error_over_clusters(of_a) as a_se,
        any_value(b) as b,
        error_over_clusters(of_b) as b_se,
        error_over_clusters(of_b - of_a) as difference_se,
        any_value(b) - any_value(a) - half_width_over_clusters(of_b - of_a) as difference_low,
        any_value(b) - any_value(a) + half_width_over_clusters(of_b - of_a) as difference_high
    from influences
    group by all

    union all by name

    select
        recipe_a, recipe_b, measured_on, temperature,
        count(*) as tokens,
        count(distinct block) as clusters,
        unnest([
            'kl_max_nats', 'kl_p999_nats', 'kl_p99_nats', 'kl_p95_nats', 'kl_p90_nats', 'kl_median_nats', 'kl_p10_nats',
            'kl_p05_nats', 'kl_p01_nats', 'kl_min_nats'
        ]) as statistic,
        unnest(quantile_cont(a['kl'], [1, 0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0])) as a,
        unnest(quantile_cont(b['kl'], [1, 0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0])) as b
    from pairs
    group by recipe_a, recipe_b, measured_on, temperature
),

conditions as (
    select distinct
        recipe as recipe_a,
        measured_on, text_hash, context, stride
    from tokens
),

-- Noise under the conditions of A, which hold for the whole pair; the largest over noise variants counts.
floors as (
    select
        recipe_a, measured_on,
        max(noise_p95) as noise_p95
    from (
        select
            conditions.recipe_a, conditions.measured_on, noise.recipe,
            quantile_cont(cast(noise.kl_dense_pruned_nats as double), 0.95) as noise_p95
        from stg_text_tokens as noise
        inner join noise_variants using (model, recipe)
        inner join conditions using (text_hash, context, stride)
        where noise.model = $1 and conditions.measured_on = 'text ' || noise.text_id
        group by all
    ) as noises
    group by all
)

select
    statistics.recipe_a, statistics.recipe_b, statistics.measured_on, statistics.statistic, statistics.a, statistics.b,
    statistics.b - statistics.a as difference,
    statistics.difference_low, statistics.difference_high, statistics.a_se, statistics.b_se,
    statistics.difference_se, statistics.temperature,
    case
        when statistics.statistic like 'kl\_%' escape '\' then coalesce(floors.noise_p95, ceilings.kl_noise_p95_nats)
    end as noise_p95,
    statistics.tokens, statistics.clusters
from statistics
left join floors using (recipe_a, measured_on)
left join output_noise_ceiling as ceilings
    on statistics.measured_on = 'prompts' and statistics.temperature = ceilings.temperature and ceilings.model = $1
order by
    statistics.recipe_a, statistics.recipe_b,
    statistics.measured_on = 'prompts',
    statistics.measured_on,
    statistics.temperature,
    list_position(
        [
            'ppl', 'ln_ppl', 'kl_mean_nats', 'kl_median_nats', 'kl_p90_nats', 'kl_p95_nats', 'kl_p99_nats',
            'kl_p999_nats', 'kl_max_nats', 'kl_p10_nats', 'kl_p05_nats', 'kl_p01_nats', 'kl_min_nats', 'delta_p_mean',
            'delta_p_rms', 'top1_agreement', 'share_nearer'
        ],
        statistics.statistic
    )
