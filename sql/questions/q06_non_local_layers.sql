-- Which sublayers shift h so far that a second-order estimate no longer describes the shift?
-- grain: one row per model × recipe × layer × sublayer × scope × lens.
-- key: model, recipe, layer, sublayer, scope, lens
-- inputs: representation_shifts
-- how to read: orth_rel_h is t = ‖Δh⊥‖ / ‖h‖. Without a parallel part, 1 − cos is 1 − 1/sqrt(1 + t²), and Theorem 1
--   says t²/2. At the threshold t = 0.37 that is 10 % too much. is_non_local says that the median position is beyond
--   the threshold. Dense rows and untouched sublayers in local scope are excluded.
-- reason: in these sublayers, usually the first and the last, the theorems explain nothing.
-- columns:
--   n: Positions [positions]
--   orth_rel_h_median: Median length of the shift orthogonal to h, relative to h [ratio] = ‖Δh⊥‖/‖h‖
--   orth_rel_h_max: Largest length of the shift orthogonal to h, relative to h [ratio] = ‖Δh⊥‖/‖h‖
--   share_non_local: Share of positions beyond 0.37, where Theorem 1 is 10 % off [share]
--   is_non_local: Whether the median position is beyond it = orth_rel_h_median > 0.37
select
    model, recipe, layer, sublayer, scope, lens,
    count(*) as n,
    median(cast(orth_rel_h as float)) as orth_rel_h_median,
    max(orth_rel_h) as orth_rel_h_max,
    avg(cast(orth_rel_h > 0.37 as integer)) as share_non_local,
    median(cast(orth_rel_h as float)) > 0.37 as is_non_local
from representation_shifts
group by all
order by model, recipe, scope, lens, layer, sublayer
