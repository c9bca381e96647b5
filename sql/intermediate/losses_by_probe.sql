-- The task loss of each scored variant, with each of its probes.
-- grain: one row per scored variant × measure × kind of task × probe.
-- key: model, recipe, measure, kind, probe
-- inputs: damage_probes, task_losses
-- how to read: bin is the probe on a logarithmic scale in steps of a tenth of a decade; a damage below 1e-4 counts as
--   1e-4.
-- reason: loss_predictions fits its curves to these rows and tests its predictions on them.
-- columns:
--   bin: The probe in tenths of a decade [decade/10] = round(10 log10 max(damage, 1e-4))
--   is_known: Whether the model has at least 5 such variants, enough for a fit
select
    probes.model, probes.recipe, losses.measure, losses.kind, probes.probe,
    probe_bin(probes.damage) as bin,
    losses.loss,
    count(*) over (partition by losses.measure, losses.kind, probes.probe, probes.model) >= 5 as is_known
from damage_probes as probes
inner join task_losses as losses using (model, recipe)
