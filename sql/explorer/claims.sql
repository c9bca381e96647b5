-- Claims of the paper, and their verdicts here.
-- grain: one row per model × claim × measure.
-- inputs: paper_claims
select
    model,
    claim,
    measure,
    says,
    amount,
    amount_low,
    amount_high,
    n,
    units,
    verdict
from paper_claims
order by model, case verdict when 'holds' then 0 when 'does not hold' then 1 else 2 end, claim, measure
