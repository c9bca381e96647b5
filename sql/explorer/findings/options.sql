-- Choices among the options before and after pruning, and KL among the options and among all other tokens.
-- grain: one row per model.
-- inputs: option_shift, reference_temperature, q16_options_against_vocabulary, paper_claims
with ranking as (
    select
        option_shift.model, option_shift.recipe, option_shift.prompt_id,
        string_agg(
            option_shift.option_index, ',' order by option_shift.p_options_dense desc, option_shift.option_index asc
        ) as dense,
        string_agg(
            option_shift.option_index, ',' order by option_shift.p_options_pruned desc, option_shift.option_index asc
        ) as pruned,
        sum(option_shift.p_full_dense) as mass_dense,
        sum(option_shift.p_full_pruned) as mass_pruned
    from option_shift
    semi join reference_temperature using (model, recipe, temperature)
    where option_shift.recipe <> 'dense'
    group by all
),

parts as (
    select
        shifts.model,
        median(shifts.options_share) as options_share
    from q16_options_against_vocabulary as shifts
    semi join reference_temperature using (model, recipe, temperature)
    group by all
)

select
    ranking.model,
    any_value(parts.options_share) as options_share,
    any_value(claims.amount) as less_share,
    any_value(claims.null_amount) as noise_less_share,
    count(*) as choices,
    count(*) filter (where split_part(ranking.dense, ',', 1) = split_part(ranking.pruned, ',', 1)) as argmax_kept,
    any_value(kept.verdict) as choice_is_kept,
    count(*) filter (where ranking.dense = ranking.pruned) as ranking_kept,
    median(ranking.mass_dense) as mass_dense_median,
    median(ranking.mass_pruned) as mass_pruned_median
from ranking
left join parts using (model)
left join paper_claims as claims
    on ranking.model = claims.model and claims.claim = 'options_move_less'
left join paper_claims as kept on ranking.model = kept.model and kept.claim = 'choice_is_kept'
group by all
order by ranking.model
