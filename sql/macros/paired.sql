-- Two variants on the same samples: the most likely option, the target's margin, Holm's correction of tests, and masks.

-- Index from 1 of the most likely option, the first of equal ones.
create or replace macro likeliest(log_likelihoods) as list_position(log_likelihoods, list_max(log_likelihoods));

-- Log-likelihood of an option, index from 1, minus the best of the others; NULL where there is no other.
create or replace macro margin_of(log_likelihoods, place) as (
    cast(log_likelihoods[place] as double)
    - list_max(list_concat(log_likelihoods[1:place - 1], log_likelihoods[place + 1:]))
);

-- One step of Holm's step-down correction: the smallest of m p-values is multiplied by m, the next by m − 1, and so
-- on. The caller takes the running maximum over the sorted p-values.
create or replace macro holm_step(p, place, tests) as least(1.0, (tests - place + 1) * p);

-- Weights that at least one of two masks removes, from the shares that they remove and the overlap j of these:
-- |A ∪ B| = (|A| + |B|)/(1 + j).
create or replace macro weights_of_either(weights, removed_share, other_removed_share, jaccard) as (
    weights * (removed_share + other_removed_share) / (1 + coalesce(jaccard, 0))
);
