-- Does the LM head compress the orthogonal part of the shift, from h to z?
-- grain: one row per model × recipe × layer × sublayer × scope × lens.
-- key: model, recipe, layer, sublayer, scope, lens
-- inputs: representation_shifts
-- how to read: z_over_h is (‖Δz⊥‖/‖z‖) / (‖Δh⊥‖/‖h‖) at a position; below 1 the head compresses. share_compressed is
--   the share of such positions. Dense rows, untouched sublayers in local scope and positions without a shift
--   orthogonal to h are excluded.
-- reason: the head maps to many more dimensions; whether it damps or spreads a shift is a property of the model.
-- columns:
--   n: Positions with a shift orthogonal to h [positions]
--   orth_rel_h_median: Median length of the shift orthogonal to h, relative to h [ratio] = ‖Δh⊥‖/‖h‖
--   orth_rel_z_median: Median length of the shift orthogonal to z, relative to z [ratio] = ‖Δz⊥‖/‖z‖
--   z_over_h_median: Median of the length in z over that in h; below 1 the head compresses [ratio] =
--     (‖Δz⊥‖/‖z‖)/(‖Δh⊥‖/‖h‖)
--   share_compressed: Share of positions at which it is below 1 [share]
with positions as (
    select
        model, recipe, layer, sublayer, scope, lens, orth_rel_h, orth_rel_z,
        orth_rel_z / orth_rel_h as z_over_h
    from representation_shifts
    where orth_rel_h > 0
)

select
    model, recipe, layer, sublayer, scope, lens,
    count(*) as n,
    median(cast(orth_rel_h as float)) as orth_rel_h_median,
    median(cast(orth_rel_z as float)) as orth_rel_z_median,
    median(cast(z_over_h as float)) as z_over_h_median,
    avg(cast(z_over_h < 1 as integer)) as share_compressed
from positions
group by all
order by model, recipe, scope, lens, layer, sublayer
