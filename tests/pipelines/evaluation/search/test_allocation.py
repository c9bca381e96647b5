"""Allocations against brute force over all choices, on small random instances with ties and zero sizes."""

import itertools

import numpy as np
import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.search.allocation import (
    Choice,
    Numbers,
    Problem,
    cheapest,
    filled_up,
    greedy_choice,
    random_choice,
    uniform_choice,
)

SEEDS = range(100)


def instance(seed: int) -> tuple[Problem, Numbers, float]:
    """Return options, costs and a target: one to four options a sublayer, many sizes and costs equal or zero."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 5, 6)
    group = np.repeat(np.arange(6), counts)
    removed = generator.integers(0, 6, len(group)).astype(float) * generator.choice([1.0, 1e7])
    costs = generator.choice([0, 0.5, 1, 2], len(group)) if seed % 2 else generator.exponential(size=len(group))
    costs = costs * generator.choice([1e-6, 1.0], len(group)) + (seed % 3 == 0) * 1e-7 * generator.random(len(group))
    problem = Problem(group, removed)
    return problem, costs, float(np.floor(generator.uniform(0, 1.02) * problem.most))


def choices_of(problem: Problem) -> list[Choice]:
    own = [np.flatnonzero(problem.group == group) for group in range(problem.groups)]
    return [np.array(choice) for choice in itertools.product(*own)]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cheapest_choice_is_that_of_brute_force(seed: int) -> None:
    problem, costs, target = instance(seed)
    reaching = [float(costs[choice].sum()) for choice in choices_of(problem) if problem.total(choice) >= target]
    if not reaching:
        with pytest.raises(InputError, match="cannot remove"):
            cheapest(problem, costs, target)
        return
    found = cheapest(problem, costs, target)
    assert problem.group[found].tolist() == list(range(problem.groups))
    assert problem.total(found) >= target
    assert costs[found].sum() == pytest.approx(min(reaching), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cheapest_of_few_changes_among_allowed_options_is_that_of_brute_force(seed: int) -> None:
    problem, costs, target = instance(seed)
    generator = np.random.default_rng([seed, 2])
    every = choices_of(problem)
    current = every[generator.integers(len(every))]
    costs = costs - costs[current][problem.group]  # of both signs, and zero where nothing changes
    allowed = generator.random(len(costs)) < 0.7
    allowed[current] = True
    target, changes = min(target, problem.total(current)), int(generator.integers(0, 4))
    reaching = [
        float(costs[choice].sum())
        for choice in every
        if allowed[choice].all() and problem.total(choice) >= target and (choice != current).sum() <= changes
    ]
    found = cheapest(problem, costs, target, allowed, (current, changes))
    assert allowed[found].all()
    assert (found != current).sum() <= changes
    assert problem.total(found) >= target
    assert costs[found].sum() == pytest.approx(min(reaching), rel=1e-9, abs=1e-15)


def test_a_target_is_not_missed_by_a_single_weight_of_many() -> None:
    problem = Problem(np.array([0, 0, 0, 1]), np.array([0, 1e9 - 1, 1e9, 0]))
    assert cheapest(problem, np.array([0, 1.0, 2.0, 0]), 1e9).tolist() == [2, 3]


def test_one_option_that_costs_far_more_than_all_others_leaves_these_exact() -> None:
    problem = Problem(np.repeat(np.arange(3), 3), np.tile([0.0, 1, 2], 3))
    costs = np.array([0, 1e-7, 50, 0, 3e-7, 4e-7, 0, 2e-7, 9e-7])
    assert cheapest(problem, costs, 3).tolist() == [1, 5, 6]


def test_sixty_sublayers_of_nine_options_that_differ_by_a_few_weights_are_within_the_best_bound() -> None:
    generator = np.random.default_rng(0)
    shares = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1])
    sizes = np.tile([884_736.0, 2_654_208.0], 30)[:, None]
    removed = sizes * shares + generator.integers(-3, 4, (60, 9)) * ((shares > 0) & (shares < 1))
    costs = np.exp(generator.normal(0, 1.5, (60, 1))) * (np.exp(6 * shares) - 1)
    problem, target = Problem(np.repeat(np.arange(60), 9), removed.ravel()), 0.4 * sizes.sum()
    found = cheapest(problem, costs.ravel(), target)
    assert problem.total(found) >= target
    bound = max(  # of the Lagrangian relaxation, at some prices
        (costs - price * removed).min(axis=1).sum() + price * target for price in np.geomspace(1e-8, 1e-3, 2000)
    )
    assert bound <= costs.ravel()[found].sum() <= 1.005 * bound


def test_random_choices_reach_the_target_with_no_step_to_spare_and_differ_by_seed() -> None:
    for seed in SEEDS:
        problem, _, target = instance(seed)
        target = min(target, problem.most)
        found = random_choice(problem, target, np.random.default_rng(seed))
        assert problem.group[found].tolist() == list(range(problem.groups))
        assert problem.total(found) >= target
        for group, option in enumerate(found):
            own = np.sort(problem.removed[problem.group == group])
            below = own[own < problem.removed[option]]
            if len(below):
                assert problem.total(found) - problem.removed[option] + below.max() < target
        again = random_choice(problem, target, np.random.default_rng(seed))
        assert found.tolist() == again.tolist()
    problem = Problem(np.repeat(np.arange(6), 4), np.tile([0.0, 1, 2, 3], 6))
    drawn = {tuple(random_choice(problem, problem.most / 2, np.random.default_rng(seed))) for seed in range(20)}
    assert len(drawn) > 10


def test_the_greedy_choice_reaches_every_target_and_takes_the_lowest_cost_for_each_unit_first() -> None:
    for seed in SEEDS:
        problem, costs, target = instance(seed)
        target = min(target, problem.most)
        found = greedy_choice(problem, costs, target)
        assert problem.group[found].tolist() == list(range(problem.groups))
        assert problem.total(found) >= target
    problem = Problem(np.array([0, 0, 1, 1]), np.array([0.0, 4, 0, 2]))
    assert greedy_choice(problem, np.array([0, 1.0, 0, 0.6]), 2).tolist() == [1, 2]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5])
def test_a_uniform_choice_removes_nearly_the_same_share_of_every_sublayer(share: float) -> None:
    sizes, shares = np.array([100.0, 400, 37, 1000]), np.array([0, 0.1, 0.18, 0.22, 0.3, 0.5, 1])
    group = np.repeat(np.arange(4), len(shares))
    problem = Problem(group, (sizes[:, None] * shares).ravel())
    around = shares[[shares.searchsorted(share, "right") - 1, shares.searchsorted(share)]]
    choice = uniform_choice(problem, sizes, share * sizes.sum(), np.tile(np.isin(shares, around), 4))
    own = problem.removed[choice] / sizes
    assert set(own) <= {*around}
    assert problem.total(choice) >= share * sizes.sum() * (1 - 1e-12)
    # None of those with the higher share could have the lower one.
    steps = np.diff(around)[0] * sizes[own == around[1]]
    assert problem.total(choice) - min(steps, default=np.inf) <= share * sizes.sum() * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_pairs_are_all_better_choices_with_one_or_two_changes_the_cheapest_first(seed: int) -> None:
    problem, costs, target = instance(seed)
    target = min(target, problem.most) / 2
    current = uniform_choice(problem, np.ones(problem.groups), target, np.ones(len(costs), dtype=bool))
    generator = np.random.default_rng(seed)
    change, open_ = costs - costs[current][problem.group], generator.random(len(costs)) < 0.8
    options = np.flatnonzero(open_)
    found = [tuple(choice) for choice in problem.pairs(current, change, target, options)]
    better = {
        tuple(choice): change[choice].sum()
        for choice in choices_of(problem)
        if 1 <= (choice != current).sum() <= 2
        and np.isin(choice[choice != current], options).all()
        and change[choice].sum() < 0
        and problem.total(choice) >= target
    }
    assert len(found) == len(set(found))
    assert set(found) == set(better)
    gains = [better[choice] for choice in found]
    assert gains == pytest.approx(sorted(gains))


def test_whatever_still_fits_is_filled_up_the_largest_cost_per_unit_first() -> None:
    # The first option of each of four sublayers keeps it; the second removes 6, 3, 3 or nothing.
    problem = Problem(np.repeat(np.arange(4), 2), np.array([0, 6.0, 0, 3, 0, 3, 0, 0]))
    costs = np.array([0, 1.0, 0, 5, 0, 6, 0, 1])
    whole = np.array([1, 3, 5, 7])
    assert [filled_up(problem, costs, whole, target).tolist() for target in (12, 11, 9, 6, 3, 0)] == [
        [1, 3, 5, 6],
        [1, 3, 5, 6],
        [1, 3, 4, 6],
        [1, 2, 4, 6],
        [1, 2, 4, 6],
        [0, 2, 4, 6],
    ]
    # The cheapest first removal alone would have been enough with the second.
    assert greedy_choice(problem, np.array([0, 5.0, 0, 1, 0, 6, 0, 1]), 6).tolist() == [1, 3, 4, 6]
    assert filled_up(problem, np.array([0, 5.0, 0, 1, 0, 6, 0, 1]), np.array([1, 3, 4, 6]), 6).tolist() == [1, 2, 4, 6]
