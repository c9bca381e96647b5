-- The rule of verdicts. `prunescope.pipelines.reporting.advice` applies the same rule to predicted losses; a test
-- compares the two.

-- A variant is safe where generating and choosing lose at most the tolerated share of the dense model's skill, and
-- broken where choosing loses half or more, since a score that halves counts as lost (q21).
create or replace macro verdict_by_losses(choosing, writing, tolerance) as case
    when choosing > tolerance and choosing >= 0.5 then 'broken'
    when greatest(writing, choosing) <= tolerance then 'safe'
    else 'non-generative only'
end;

-- Without scored tasks: broken where the most likely option changes in half of the questions or more, safe where the KL
-- at the first generated token is below that published for a model that no longer generates (2603.24652).
create or replace macro verdict_by_prompts(options_changed, kl_nats, top1_change, tolerance) as case
    when options_changed >= 0.5 then 'broken'
    when kl_nats < 0.6 and top1_change <= tolerance then 'safe'
    else 'non-generative only'
end;
