-- Claims of the paper, and their verdicts here.
-- grain: one row per model × claim × measure.
-- inputs: paper_claims
select model, claim, measure, says, amount, amount_low, amount_high, null_amount, n, units, verdict
from paper_claims
order by
    model,
    list_position(['holds', 'does not hold', 'as under rounding', 'no null', 'too little data'], verdict),
    claim, measure
