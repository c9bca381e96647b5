-- How do two variants of one model differ, paired token by token?
-- grain: one row per pair of variants × text or set of prompts × temperature × statistic.
-- key: recipe_a, recipe_b, measured_on, temperature, statistic
-- inputs: stg_text_tokens, stg_decoding_steps, dense_ends, noise_variants, output_noise_ceiling
-- parameters: $1 the model; $2 the pairs, each as {a, b, prompts}: both recipes and the prompts of the same text on
--   both sides; $3 the recipes of all pairs, so that files of others stay closed. Bound, never pasted
-- how to read: a and b are the statistics of kld_summary for A and for B, over the tokens that both were measured at:
--   of a text the same text_hash, context, stride and position, T = 1; of the prompts (teacher forced, so that both
--   models read the dense tokens) the same prompt text, dense tokens, step and temperature. difference is b − a. Errors
--   take windows of a text, and prompts, as the independent units (cluster-robust); the error of the difference comes
--   from the paired differences, so that what both have in common cancels. low and high are its 95 % interval by
--   Student's t; NULL below two units and if none deviates. Percentiles and extremes have no error. share_nearer is the
--   share of tokens with the smaller KL, ties counting half. noise_p95 is the 95th percentile of the KL that rounding
--   alone causes there, of a text under the same conditions; NULL if it was not measured.
-- reason: the errors of two figures say little about which variant is better; the error of their paired difference
--   does. The query is one file because its parameters must reach the scans of the files.
with wanted as (
    select
        one.pair.a as recipe_a,
        one.pair.b as recipe_b,
        cast(one.pair.prompts as varchar[]) as prompts
    from (select unnest($2) as pair) as one
),

text_tokens as (
    select
        recipe, text_id, text_hash, context, stride, window_id, position,
        -cast(log_p_target_pruned as double) as nll,
        delta_p_target as delta_p,
        cast(kl_dense_pruned_nats as double) as kl,
        cast(is_top1_same as integer) as top1
    from stg_text_tokens
    where model = $1 and list_contains($3, recipe)
),

steps as (
    select
        one.recipe, one.prompt_id, one.step, one.position, one.temperature, one.token_id_dense,
        cast(one.kl_dense_pruned_nats as double) as kl,
        cast(one.is_top1_same as integer) as top1
    from stg_decoding_steps as one
    anti join dense_ends
        on one.model = dense_ends.model and one.prompt_id = dense_ends.prompt_id and one.step > dense_ends.end_step
    where one.model = $1 and list_contains($3, one.recipe) and one.trajectory = 'teacher_forced'
),

pairs as (
    select
        wanted.recipe_a, wanted.recipe_b,
        'text ' || a.text_id as measured_on,
        1.0 as temperature,
        cast(a.window_id as varchar) as block,
        a.nll as nll_a,
        b.nll as nll_b,
        a.delta_p as delta_p_a,
        b.delta_p as delta_p_b,
        a.kl as kl_a,
        b.kl as kl_b,
        a.top1 as top1_a,
        b.top1 as top1_b
    from wanted
    inner join text_tokens as a
        on wanted.recipe_a = a.recipe
    inner join text_tokens as b using (text_id, text_hash, context, stride, window_id, position)
    where wanted.recipe_b = b.recipe

    union all by name

    select
        wanted.recipe_a, wanted.recipe_b,
        'prompts' as measured_on,
        a.temperature,
        a.prompt_id as block,
        a.kl as kl_a,
        b.kl as kl_b,
        a.top1 as top1_a,
        b.top1 as top1_b
    from wanted
    inner join steps as a
        on wanted.recipe_a = a.recipe and list_contains(wanted.prompts, a.prompt_id)
    inner join steps as b using (prompt_id, step, position, temperature, token_id_dense)
    where wanted.recipe_b = b.recipe
),

-- One row per token and measure.
stacked as (
    select
        recipe_a, recipe_b, measured_on, temperature, block,
        unnest([
            { 'measure': 'nll', 'a': nll_a, 'b': nll_b },
            { 'measure': 'kl', 'a': kl_a, 'b': kl_b },
            { 'measure': 'delta_p', 'a': delta_p_a, 'b': delta_p_b },
            { 'measure': 'delta_p_square', 'a': delta_p_a ** 2, 'b': delta_p_b ** 2 },
            { 'measure': 'top1', 'a': top1_a, 'b': top1_b },
            {
                'measure': 'nearer',
                'a': case when kl_a < kl_b then 1 when kl_a = kl_b then 0.5 else 0 end,
                'b': case when kl_b < kl_a then 1 when kl_a = kl_b then 0.5 else 0 end
            }
        ]) as one
    from pairs
),

-- Prompts have only some of the measures; the others are NULL.
measures as (
    select
        stacked.*,
        stacked.one.measure,
        stacked.one.a,
        stacked.one.b
    from stacked
    where stacked.one.a is not null
),

means as (
    select
        recipe_a, recipe_b, measured_on, temperature, measure,
        count(*) as tokens,
        avg(a) as a,
        avg(b) as b
    from measures
    group by all
),

-- What each window or prompt adds to the mean beyond its expected part.
influences as (
    select
        means.recipe_a, means.recipe_b, means.measured_on, means.temperature, means.measure, measures.block,
        any_value(means.tokens) as tokens,
        any_value(means.a) as a,
        any_value(means.b) as b,
        sum(measures.a - means.a) / any_value(means.tokens) as of_a,
        sum(measures.b - means.b) / any_value(means.tokens) as of_b
    from means
    inner join measures using (recipe_a, recipe_b, measured_on, temperature, measure)
    group by all
),

-- A perplexity and a root mean square are functions of a mean: their influence is that of the mean times the slope.
linearised as (
    select
        recipe_a, recipe_b, measured_on, temperature,
        case measure
            when 'nll' then 'ln_ppl'
            when 'kl' then 'kl_mean_nats'
            when 'delta_p' then 'delta_p_mean'
            when 'delta_p_square' then 'delta_p_rms'
            when 'top1' then 'top1_agreement'
            else 'share_nearer'
        end as statistic,
        tokens,
        case when measure = 'delta_p_square' then sqrt(a) else a end as a,
        case when measure = 'delta_p_square' then sqrt(b) else b end as b,
        case when measure = 'delta_p_square' then of_a / (2 * nullif(sqrt(a), 0)) else of_a end as of_a,
        case when measure = 'delta_p_square' then of_b / (2 * nullif(sqrt(b), 0)) else of_b end as of_b
    from influences

    union all

    select
        recipe_a, recipe_b, measured_on, temperature,
        'ppl' as statistic,
        tokens,
        exp(a) as a,
        exp(b) as b,
        exp(a) * of_a as of_a,
        exp(b) * of_b as of_b
    from influences
    where measure = 'nll'
),

with_errors as (
    select
        recipe_a, recipe_b, measured_on, temperature, statistic,
        any_value(tokens) as tokens,
        count(*) as clusters,
        any_value(a) as a,
        error_over_clusters(of_a) as a_se,
        any_value(b) as b,
        error_over_clusters(of_b) as b_se,
        any_value(b) - any_value(a) as difference,
        error_over_clusters(of_b - of_a) as difference_se,
        half_width_over_clusters(of_b - of_a) as half_width
    from linearised
    group by all
),

spreads as (
    select
        recipe_a, recipe_b, measured_on, temperature,
        count(*) as tokens,
        count(distinct block) as clusters,
        unnest([
            'kl_max_nats', 'kl_p999_nats', 'kl_p99_nats', 'kl_p95_nats', 'kl_p90_nats', 'kl_median_nats', 'kl_p10_nats',
            'kl_p05_nats', 'kl_p01_nats', 'kl_min_nats'
        ]) as statistic,
        unnest(quantile_cont(kl_a, [1, 0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0])) as a,
        unnest(quantile_cont(kl_b, [1, 0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0])) as b
    from pairs
    group by recipe_a, recipe_b, measured_on, temperature
),

conditions as (
    select distinct
        recipe as recipe_a,
        text_id, text_hash, context, stride
    from text_tokens
),

-- The conditions of A hold for the whole pair; noise measured under other conditions does not apply.
noise_on_texts as (
    select
        tokens.recipe, conditions.recipe_a, tokens.text_id,
        quantile_cont(cast(tokens.kl_dense_pruned_nats as double), 0.95) as noise_p95
    from stg_text_tokens as tokens
    inner join noise_variants using (model, recipe)
    inner join conditions using (text_id, text_hash, context, stride)
    where tokens.model = $1
    group by all
),

asked as (
    select distinct recipe_a
    from wanted
),

-- The largest value of several noise variants counts.
floors as (
    select
        recipe_a,
        'text ' || text_id as measured_on,
        1.0 as temperature,
        max(noise_p95) as noise_p95
    from noise_on_texts
    group by recipe_a, text_id

    union all

    select
        asked.recipe_a,
        'prompts' as measured_on,
        ceilings.temperature,
        ceilings.kl_noise_p95_nats as noise_p95
    from output_noise_ceiling as ceilings
    cross join asked
    where ceilings.model = $1
),

statistics as (
    select
        *,
        difference - half_width as difference_low,
        difference + half_width as difference_high
    from with_errors

    union all by name

    select
        *,
        b - a as difference
    from spreads
)

select
    statistics.recipe_a, statistics.recipe_b, statistics.measured_on, statistics.statistic, statistics.a, statistics.b,
    statistics.difference, statistics.difference_low, statistics.difference_high, statistics.a_se, statistics.b_se,
    statistics.difference_se, statistics.temperature,
    case when statistics.statistic like 'kl\_%' escape '\' then floors.noise_p95 end as noise_p95,
    statistics.tokens, statistics.clusters
from statistics
left join floors using (recipe_a, measured_on, temperature)
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
