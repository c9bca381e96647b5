-- How much of the shift lies along the dense vector, where the cosine cannot see it, and how much across?
-- grain: one row per model × recipe × layer × sublayer × scope × lens × space.
-- key: model, recipe, layer, sublayer, scope, lens, space
-- inputs: shifts
-- how to read: par_rel is signed (below 0 the vector shrinks), orth_rel is not; both are relative to the dense length.
--   orthogonal_share is ‖Δ⊥‖² / ‖Δ‖², the share of the squared shift that lies across; n counts the positions that
--   moved. Dense rows and untouched sublayers in local scope are left out.
-- reason: only the part across turns a vector; a large part along explains a large ‖Δ‖ with a harmless cosine.
-- columns:
--   space: h, z or p
--   n: Positions that moved [positions]
--   par_rel_median: Median share of the shift along the dense vector, signed [ratio] = ⟨Δv, v⟩/‖v‖²
--   par_rel_abs_median: Median of its size [ratio] = |⟨Δv, v⟩|/‖v‖²
--   orth_rel_median: Median share of the shift across the dense vector [ratio] = ‖Δv⊥‖/‖v‖
--   orthogonal_share_median: Median part of the squared shift that lies across [share] = ‖Δv⊥‖²/‖Δv‖²
with

-- NULL where the space did not move, so that one pass over the shifts serves all three.
parts as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        case when orth_rel_h > 0 or par_rel_h <> 0 then cast(par_rel_h as float) end as par_h,
        case when orth_rel_h > 0 or par_rel_h <> 0 then cast(orth_rel_h as float) end as orth_h,
        cast(
            orth_rel_h ** 2 / nullif(orth_rel_h ** 2 + par_rel_h ** 2, 0) as float
        ) as share_h,
        case when orth_rel_z > 0 or par_rel_z <> 0 then cast(par_rel_z as float) end as par_z,
        case when orth_rel_z > 0 or par_rel_z <> 0 then cast(orth_rel_z as float) end as orth_z,
        cast(
            orth_rel_z ** 2 / nullif(orth_rel_z ** 2 + par_rel_z ** 2, 0) as float
        ) as share_z,
        case when orth_rel_p > 0 or par_rel_p <> 0 then cast(par_rel_p as float) end as par_p,
        case when orth_rel_p > 0 or par_rel_p <> 0 then cast(orth_rel_p as float) end as orth_p,
        cast(
            orth_rel_p ** 2 / nullif(orth_rel_p ** 2 + par_rel_p ** 2, 0) as float
        ) as share_p
    from shifts
),

medians as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
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
    group by model, recipe, layer, sublayer, scope, lens
),

spaces as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        'h' as space,
        n_h as n,
        par_h as par_rel_median,
        par_abs_h as par_rel_abs_median,
        orth_h as orth_rel_median,
        share_h as orthogonal_share_median
    from medians
    where n_h > 0

    union all

    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        'z' as space,
        n_z as n,
        par_z as par_rel_median,
        par_abs_z as par_rel_abs_median,
        orth_z as orth_rel_median,
        share_z as orthogonal_share_median
    from medians
    where n_z > 0

    union all

    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        'p' as space,
        n_p as n,
        par_p as par_rel_median,
        par_abs_p as par_rel_abs_median,
        orth_p as orth_rel_median,
        share_p as orthogonal_share_median
    from medians
    where n_p > 0
)

select
    model,
    recipe,
    layer,
    sublayer,
    scope,
    lens,
    space,
    n,
    par_rel_median,
    par_rel_abs_median,
    orth_rel_median,
    orthogonal_share_median
from spaces
order by model, recipe, scope, lens, layer, sublayer, space
