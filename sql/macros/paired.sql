-- Two variants on the same samples: what turned, by how much the target moved, and how sure that is.

-- Place from 1 of the likeliest option, the first of equal ones.
create or replace macro likeliest(log_likelihoods) as list_position(log_likelihoods, list_max(log_likelihoods));

-- Log-likelihood of an option, place from 1, over the best of the others; NULL where there is no other.
create or replace macro margin_of(log_likelihoods, place) as (
    cast(log_likelihoods[place] as double)
    - list_max(list_concat(log_likelihoods[1:place - 1], log_likelihoods[place + 1:]))
);

-- Holm's step-down correction of a p among those of its family, of which NULL is none: what p has to be held against
-- is 1/m for the smallest of m, 1/(m − 1) for the next, and so on; no p comes out below that of a smaller one.
create or replace macro holm_step(p, place, tests) as least(1.0, (tests - place + 1) * p);
