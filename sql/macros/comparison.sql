-- Words and bounds of comparisons between variants.

-- Share of the layers' weights, or bytes, that a variant may remove less than another one and still count as of its
-- budget.
create or replace macro budget_slack() as 0.005;

-- What a paired difference says about one side: from a bound of its interval, NULL if that is not known, and whether
-- the side does less damage, NULL if the interval includes 0.
create or replace macro comparison_verdict(bound, is_better, other) as case
    when bound is null then 'not known'
    when is_better then 'beats ' || other
    when not is_better then 'loses to ' || other
    else 'no difference shown'
end;
