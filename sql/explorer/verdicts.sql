-- Verdict on each pruned variant.
-- grain: one row per pruned variant.
-- inputs: variant_verdict
select
    model,
    recipe,
    verdict,
    evidence_writing,
    loss_writing,
    loss_writing_low,
    loss_writing_high,
    n_writing,
    evidence_choosing,
    loss_choosing,
    loss_choosing_low,
    loss_choosing_high,
    n_choosing,
    undecided,
    units_needed,
    unit_needed,
    is_below_noise,
    prompts,
    prompts_flipped,
    prompts_collapsed
from variant_verdict
