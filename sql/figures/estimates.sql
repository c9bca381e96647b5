-- Sampled points of estimate against truth for the three theorems, and the bias by decile of the truth.
-- grain: one row per sampled point, and one per model × scope × lens × theorem × decile.
-- inputs: reference_temperature, estimate_points, q05_bias_by_deviation
-- how to read: the sample of a theorem is the 500 points with the smallest MD5 of their key, the same in every run.
--   Columns of the other kind of row are NULL.
with temperatures as (
    select distinct model, temperature
    from reference_temperature
),

points as (
    select estimates.*
    from estimate_points as estimates
    semi join reference_temperature using (model, recipe, temperature)
    where estimates.estimate > 0 and estimates.truth > 0 and estimates.scope not in ('isolated', 'restored')
    qualify row_number() over (
        partition by estimates.model, estimates.lens, estimates.theorem
        order by
            md5(
                concat_ws(
                    '|',
                    estimates.recipe,
                    estimates.prompt_id,
                    estimates.position,
                    estimates.layer,
                    estimates.sublayer,
                    estimates.scope
                )
            ),
            estimates.recipe,
            estimates.prompt_id,
            estimates.position,
            estimates.layer,
            estimates.sublayer,
            estimates.scope
    ) <= 500
),

deciles as (
    select
        bias.*,
        sqrt(bias.truth_min * bias.truth_max) as truth
    from q05_bias_by_deviation as bias
    semi join temperatures using (model, temperature)
    where bias.scope not in ('isolated', 'restored')
)

select model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature, theorem, estimate, truth
from points

union all by name

select model, scope, lens, temperature, theorem, truth, decile, n, ratio_median, ratio_p10, ratio_p90
from deciles
order by
    model asc, lens desc, theorem asc, decile asc, scope asc, truth asc, estimate asc, recipe asc, prompt_id asc,
    position asc, layer asc, sublayer asc
