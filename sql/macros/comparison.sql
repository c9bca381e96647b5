-- Words and bounds of comparisons between variants.

-- Tolerance of equal budgets: a variant may remove less of the layers' weights or bytes than another by at most this
-- share.
create or replace macro budget_slack() as 0.005;

-- What a paired difference says about one side. `bound` is an end of the difference's interval, NULL if not known.
-- `is_better` says whether the side does less damage, NULL if the interval includes 0.
create or replace macro comparison_verdict(bound, is_better, other) as case
    when bound is null then 'not known'
    when is_better then 'beats ' || other
    when not is_better then 'loses to ' || other
    else 'no difference shown'
end;
