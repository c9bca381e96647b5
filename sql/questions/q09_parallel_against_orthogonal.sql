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

parts as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        'h' as space,
        par_rel_h as par_rel,
        orth_rel_h as orth_rel
    from shifts

    union all

    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        'z' as space,
        par_rel_z as par_rel,
        orth_rel_z as orth_rel
    from shifts

    union all

    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        'p' as space,
        par_rel_p as par_rel,
        orth_rel_p as orth_rel
    from shifts
)

select
    model,
    recipe,
    layer,
    sublayer,
    scope,
    lens,
    space,
    count(*) as n,
    median(par_rel) as par_rel_median,
    median(abs(par_rel)) as par_rel_abs_median,
    median(orth_rel) as orth_rel_median,
    median(orth_rel ** 2 / (orth_rel ** 2 + par_rel ** 2)) as orthogonal_share_median
from parts
where orth_rel > 0 or par_rel <> 0
group by model, recipe, layer, sublayer, scope, lens, space
order by model, recipe, scope, lens, layer, sublayer, space
