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
    null_amount,
    n,
    units,
    verdict
from paper_claims
order by model, case verdict when 'holds' then 0 when 'does not hold' then 1 when 'as under rounding' then 2 else 3 end, claim, measure
