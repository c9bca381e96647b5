-- How much of the shift lies along the dense vector, where the cosine does not show it, and how much is orthogonal?
-- grain: one row per model × recipe × layer × sublayer × scope × lens × space.
-- key: model, recipe, layer, sublayer, scope, lens, space
-- inputs: representation_shifts, stg_layer_transitions
-- how to read: par_rel is signed (below 0 the vector shrinks), orth_rel is not; both are relative to the dense length.
--   orthogonal_share is ‖Δ⊥‖² / ‖Δ‖², the share of the squared shift that is orthogonal; n counts the positions that
--   moved. Dense rows and untouched sublayers in local scope are excluded. If a model has three million records or
--   more, every second position is used, from four and a half million on every third, and so on, shifted by one
--   position per layer. If positions were independent, the median over n of them would lie within 100 / sqrt(n)
--   percentage points of the 50th percentile of all positions in 95 of 100 cases: within 5 points for n = 400.
-- reason: only the orthogonal part turns a vector; a large parallel part explains a large ‖Δ‖ with a harmless cosine.
--   The view is long because one pass over the shifts serves three spaces.
-- columns:
--   space: h, z or p
--   n: Positions used that moved [positions]
--   par_rel_median: Median signed length of the shift along the dense vector, relative to it [ratio] = ⟨Δv, v⟩/‖v‖²
--   par_rel_abs_median: Median of its size [ratio] = |⟨Δv, v⟩|/‖v‖²
--   orth_rel_median: Median length of the shift orthogonal to the dense vector, relative to it [ratio] = ‖Δv⊥‖/‖v‖
--   orthogonal_share_median: Median part of the squared shift that is orthogonal [share] = ‖Δv⊥‖²/‖Δv‖²
with models as (
    select
        model,
        greatest(count(*) // 1500000, 1) as stride
    from stg_layer_transitions
    group by all
),

-- A map instead of a table, as in q05.
strides as (
    select map_from_entries(list(row(model, stride))) as of_model
    from models
),

squares as (
    select
        model, recipe, layer, sublayer, scope, lens,
        cast(par_rel_h as float) as par_h,
        cast(orth_rel_h as float) as orth_h,
        orth_rel_h * orth_rel_h as across_h,
        orth_rel_h * orth_rel_h + par_rel_h * par_rel_h as whole_h,
        cast(par_rel_z as float) as par_z,
        cast(orth_rel_z as float) as orth_z,
        orth_rel_z * orth_rel_z as across_z,
        orth_rel_z * orth_rel_z + par_rel_z * par_rel_z as whole_z,
        cast(par_rel_p as float) as par_p,
        cast(orth_rel_p as float) as orth_p,
        orth_rel_p * orth_rel_p as across_p,
        orth_rel_p * orth_rel_p + par_rel_p * par_rel_p as whole_p
    from representation_shifts
    where (position + layer) % (select strides.of_model from strides)[model] = 0
),

-- NULL if the space did not move; one pass over the shifts then serves all three spaces.
parts as (
    select
        model, recipe, layer, sublayer, scope, lens,
        case when whole_h > 0 then par_h end as par_h,
        case when whole_h > 0 then orth_h end as orth_h,
        case when whole_h > 0 then cast(across_h / whole_h as float) end as share_h,
        case when whole_z > 0 then par_z end as par_z,
        case when whole_z > 0 then orth_z end as orth_z,
        case when whole_z > 0 then cast(across_z / whole_z as float) end as share_z,
        case when whole_p > 0 then par_p end as par_p,
        case when whole_p > 0 then orth_p end as orth_p,
        case when whole_p > 0 then cast(across_p / whole_p as float) end as share_p
    from squares
),

medians as (
    select
        model, recipe, layer, sublayer, scope, lens,
        count(par_h) as n_h,
        median(par_h) as par_h,
        median(abs(par_h)) as par_abs_h,
        median(orth_h) as orth_h,
        median(share_h) as share_h,
        count(par_z) as n_z,
        median(par_z) as par_z,
        median(abs(par_z)) as par_abs_z,
        median(orth_z) as orth_z,
        median(share_z) as share_z,
        count(par_p) as n_p,
        median(par_p) as par_p,
        median(abs(par_p)) as par_abs_p,
        median(orth_p) as orth_p,
        median(share_p) as share_p
    from parts
    group by all
),

-- Row i gets entry i of every unnested list.
spaces as (
    select
        model, recipe, layer, sublayer, scope, lens,
        unnest(['h', 'z', 'p']) as space,
        unnest([n_h, n_z, n_p]) as n,
        unnest([par_h, par_z, par_p]) as par_rel_median,
        unnest([par_abs_h, par_abs_z, par_abs_p]) as par_rel_abs_median,
        unnest([orth_h, orth_z, orth_p]) as orth_rel_median,
        unnest([share_h, share_z, share_p]) as orthogonal_share_median
    from medians
)

select
    model, recipe, layer, sublayer, scope, lens, space, n, par_rel_median, par_rel_abs_median, orth_rel_median,
    orthogonal_share_median
from spaces
where n > 0
order by model, recipe, scope, lens, layer, sublayer, space
