-- On which models does each claim of the paper hold?
-- grain: one row per claim × measure.
-- key: claim, measure
-- across: models
-- inputs: paper_claims
-- how to read: paper_claims judges every claim on each model alone; nothing is pooled. A model without data for a claim
--   counts as one with too little data. A claim that holds on two models may still fail on a third.
-- reason: what holds on one model may be a property of that model.
-- columns:
--   measure: As in paper_claims [label]
--   says: The claim in words, with its threshold
--   n_models: Models with a verdict on any claim [models]
--   models_hold: Names of the models on which it holds [labels]
--   models_fail: Names of the models on which it does not hold [labels]
--   models_open: Names of the models with no or too little data, without a null, or with no more than rounding [labels]
--   verdict: holds on every model; holds on no model; differs if it holds on one and does not on another; else
--     open [label]
with claims as (
    select distinct claim, measure, says
    from paper_claims
),

models as (
    select distinct model
    from paper_claims
),

judged as (
    select
        claims.claim, claims.measure, claims.says, models.model,
        coalesce(given.verdict, 'too little data') as verdict
    from claims
    cross join models
    left join paper_claims as given using (claim, measure, model)
),

counted as (
    select
        claim, measure, says,
        count(*) as n_models,
        count(*) filter (where verdict = 'holds') as n_hold,
        count(*) filter (where verdict = 'does not hold') as n_fail,
        string_agg(model, ', ' order by model) filter (where verdict = 'holds') as models_hold,
        string_agg(model, ', ' order by model) filter (where verdict = 'does not hold') as models_fail,
        string_agg(model, ', ' order by model) filter (
            where verdict not in ('holds', 'does not hold')
        ) as models_open
    from judged
    group by all
)

select
    claim, measure, says, n_models,
    coalesce(models_hold, '') as models_hold,
    coalesce(models_fail, '') as models_fail,
    coalesce(models_open, '') as models_open,
    case
        when n_hold = n_models then 'holds on every model'
        when n_fail = n_models then 'holds on no model'
        when n_hold > 0 and n_fail > 0 then 'differs'
        else 'open'
    end as verdict
from counted
order by claim, measure
