-- The questions and prompts behind the claims about choices and texts, each averaged over the variants.
-- grain: one row per model × claim × measure × is_noise × question or prompt.
-- key: model, claim, measure, is_noise, unit
-- inputs: claim_variants, stg_option_subspace, variant_temperatures, trajectory_gaps
-- how to read: paper_claims says how each number is made. Rows with is_noise are the null.
-- reason: all variants answer the same questions and prompts, so only questions and prompts are independent.
-- columns:
--   claim: choice_is_kept, options_move_less, options_in_the_tail, own_text_is_further or free_running_exceeds_fork
--     [label]
--   measure: all for questions, the scale of the gap for prompts [label]
--   unit: Question or prompt
--   units: questions or prompts [label]
--   variants: Variants that the row covers [variants]
--   amount: For a question, 1 if the claim holds in more than half of the variants, else 0; for a prompt, the mean gap
--     [nats or ln ratio]
with questions as (
    select
        options.model, variants.is_noise, options.prompt_id,
        bool_or(variants.is_rounding) as is_rounding,
        count(*) as variants,
        avg(cast(options.is_argmax_same as integer)) > 0.5 as is_kept,
        avg(
            cast(
                options.kl_options_dense_pruned_nats < kl_of_rest(
                    options.kl_dense_pruned_nats, options.kl_options_dense_pruned_nats, options.mass_dense,
                    options.mass_pruned
                ) as integer
            )
        ) > 0.5 as is_less,
        any_value(options.mass_dense) < 0.01 as is_tail
    from stg_option_subspace as options
    inner join variant_temperatures using (model, recipe, temperature)
    inner join claim_variants as variants using (model, recipe)
    group by all
),

-- Row i gets entry i of every unnested list.
gaps as (
    select
        gaps.model, gaps.prompt_id, variants.is_noise, variants.is_rounding,
        unnest([
            'own_text_is_further', 'own_text_is_further', 'free_running_exceeds_fork', 'free_running_exceeds_fork'
        ]) as claim,
        unnest(['difference', 'logarithm of the ratio', 'difference', 'logarithm of the ratio']) as measure,
        unnest([
            gaps.own_minus_forced_nats, gaps.own_over_forced_ln, gaps.free_minus_fork_nats, gaps.free_over_fork_ln
        ]) as gap
    from trajectory_gaps as gaps
    inner join claim_variants as variants using (model, recipe)
)

select
    model,
    unnest(['choice_is_kept', 'options_move_less', 'options_in_the_tail']) as claim,
    'all' as measure,
    is_noise,
    prompt_id as unit,
    'questions' as units,
    is_rounding, variants,
    unnest(cast([is_kept, is_less, is_tail] as double[])) as amount
from questions

union all

select
    model, claim, measure, is_noise,
    prompt_id as unit,
    'prompts' as units,
    bool_or(is_rounding) as is_rounding,
    count(*) as variants,
    avg(gap) as amount
from gaps
where gap is not null
group by all
