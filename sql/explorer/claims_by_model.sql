-- Claims of the paper, and the models on which they hold.
-- grain: one row per claim × measure; none if there is only one model.
-- inputs: q33_claims_by_model
select claim, measure, says, models_hold, models_fail, models_open, verdict
from q33_claims_by_model
where n_models > 1
order by
    case verdict when 'holds on every model' then 0 when 'differs' then 1 when 'holds on no model' then 2 else 3 end,
    claim, measure
