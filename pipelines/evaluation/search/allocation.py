"""Choice of one treatment a sublayer: the exact optimum of a sum of costs, and descent on costs that overlap.

The problem is a multiple-choice knapsack: one option of every sublayer, at least a target removed, at the lowest cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from prunescope.pipelines.core.errors import ComputationError, InputError

Numbers = NDArray[np.float64]
Choice = NDArray[np.int64]
# Relative distance of the target within which a removal counts as reached: sums of floats round.
_ROUNDING = 1e-12
_MAX_SWEEPS = 200
# Relative gap at which an allocation counts as the optimum, and the time after which the best one so far is taken; costs
# are measured to some per cent.
_GAP = 1e-9
_SECONDS = 20.0
# Cross terms as a share of the KL from which on measurements decide the strength of the overlap.
_PRIOR = 0.1


@dataclass(frozen=True)
class Problem:
    """Options of all sublayers, in one list.

    Attributes:
        group: sublayer of each option, from 0.
        removed: what each option removes, in the budget's unit.
    """

    group: Choice
    removed: Numbers

    @property
    def groups(self) -> int:
        """Number of sublayers."""
        return int(self.group.max()) + 1

    @property
    def most(self) -> float:
        """The most that can be removed."""
        largest = np.zeros(self.groups)
        np.maximum.at(largest, self.group, self.removed)
        return float(largest.sum())

    def total(self, choice: Choice) -> float:
        """Return what a choice (one option a sublayer) removes."""
        return float(self.removed[choice].sum())


def cheapest(
    problem: Problem,
    costs: Numbers,
    target: float,
    allowed: NDArray[np.bool_] | None = None,
    changes: tuple[Choice, int] | None = None,
) -> Choice:
    """Return the option of each sublayer that removes the target at the lowest sum of costs, by HiGHS.

    Args:
        problem: the options.
        costs: of each option.
        target: to be removed, in the budget's unit.
        allowed: options that may be chosen; None allows all.
        changes: a choice, and how many sublayers may differ from it.

    Raises:
        InputError: the allowed options cannot remove so much.
        ComputationError: the solver gave up.
    """
    count = len(problem.group)
    upper = np.ones(count) if allowed is None else allowed.astype(float)
    # In units of the target, so that the solver's tolerances are relative ones.
    scale = max(target, 1.0)
    one_each = coo_array((np.ones(count), (problem.group, np.arange(count))), (problem.groups, count))
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(problem.removed[None] / scale, (1 - _ROUNDING) * target / scale, np.inf),
    ]
    if changes is not None:
        stays = np.zeros(count)
        stays[changes[0]] = 1
        constraints.append(LinearConstraint(stays[None], problem.groups - changes[1], np.inf))
    result = milp(
        costs / max(float(np.abs(costs).max()), np.finfo(float).tiny),
        integrality=np.ones(count),
        bounds=Bounds(0, upper),
        constraints=constraints,
        options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
    )
    if result.status == 2:  # infeasible
        raise InputError(f"the menu cannot remove {target:,.0f}; it removes at most {problem.most:,.0f}")
    if result.x is None:
        raise ComputationError(f"the allocation was not solved: {result.message}")
    chosen = np.flatnonzero(result.x > 0.5)
    return chosen[np.argsort(problem.group[chosen])]


def predicted(choice: Choice, costs: Numbers, overlap: Numbers, strength: float) -> float:
    """Return the cost of a choice whose effects overlap.

    With c the costs alone and r the correlations of the logit shifts, Σ c_a + strength·Σ_{a≠b} r_ab √(c_a c_b): the
    KL of a sum of logit shifts to second order where `strength` is 1, and the sum where it is 0.
    """
    root = np.sqrt(costs[choice])
    own = overlap[np.ix_(choice, choice)] - np.eye(len(choice))
    return float(costs[choice].sum() + strength * root @ own @ root)


def descend(
    problem: Problem, costs: Numbers, overlap: Numbers, strength: float, target: float, start: Choice
) -> Choice:
    """Return the choice to which single changes and exchanges of two lead from a start; each lowers `predicted`.

    Args:
        problem: the options.
        costs: of each option alone, not negative.
        overlap: correlations of the options' logit shifts.
        strength: of the overlap.
        target: to be removed at least.
        start: a choice that removes it.
    """
    root = np.sqrt(costs)
    # Cost of two options beyond that of each alone; options of one sublayer replace each other.
    joint = 2 * strength * overlap * root * root[:, None]
    joint[problem.group[:, None] == problem.group] = 0
    choice = start.copy()
    for _ in range(_MAX_SWEEPS):
        now = choice[problem.group]  # the option that each option would replace
        cost = costs + joint[:, choice].sum(axis=1)
        gain = cost - cost[now]
        freed = problem.removed - problem.removed[now]
        # Both at once: the cross terms of the new pair and of the old one, less those that each counted with the other.
        both = gain[:, None] + gain + joint - joint[:, now] - joint[now] + joint[np.ix_(now, now)]
        both[problem.group[:, None] == problem.group] = np.inf
        np.fill_diagonal(both, gain)
        total = freed[:, None] + freed
        np.fill_diagonal(total, freed)
        both[problem.total(choice) + total < (1 - _ROUNDING) * target] = np.inf
        a, b = np.unravel_index(int(both.argmin()), both.shape)
        if not both[a, b] < -1e-12 * max(1.0, float(costs[choice].sum())):
            break
        choice[problem.group[a]], choice[problem.group[b]] = a, b
    return choice


def fitted_strength(choices: Sequence[Choice], measured: Sequence[float], costs: Numbers, overlap: Numbers) -> float:
    """Return the strength of the overlap that fits measured choices best, by least squares of relative residuals.

    Choices of which hardly any shifts overlap say nothing of it; it then stays at 1, its value for small shifts. As a
    prior around 1 it counts like one measurement whose cross terms are a tenth of its KL.
    """
    sums = np.array([predicted(choice, costs, overlap, 0.0) for choice in choices])
    cross = np.array([predicted(choice, costs, overlap, 1.0) for choice in choices]) - sums
    residual, weight = np.array(measured) - sums, 1 / np.maximum(np.array(measured), np.finfo(float).tiny)
    known = float(((cross * weight) ** 2).sum())
    return (float((residual * cross * weight**2).sum()) + _PRIOR**2) / (known + _PRIOR**2)


def random_choice(problem: Problem, target: float, generator: np.random.Generator) -> Choice:
    """Return a random option of each sublayer, moved in random steps until the target is just reached.

    Args:
        problem: the options.
        target: to be removed.
        generator: of the draws.
    """
    ladders = [np.flatnonzero(problem.group == group) for group in range(problem.groups)]
    ladders = [own[np.argsort(problem.removed[own], kind="stable")] for own in ladders]
    places = [int(generator.integers(len(own))) for own in ladders]
    removed = float(sum(problem.removed[own[place]] for own, place in zip(ladders, places, strict=True)))
    least = (1 - _ROUNDING) * target
    for step in (1, -1):
        # Up until the target is reached; then down by each sublayer's step that keeps it, in random order.
        while removed < least if step == 1 else True:
            movable = [g for g, own in enumerate(ladders) if 0 <= places[g] + step < len(own)]
            changes = [
                problem.removed[ladders[g][places[g] + step]] - problem.removed[ladders[g][places[g]]] for g in movable
            ]
            if step == -1:
                movable = [g for g, change in zip(movable, changes, strict=True) if removed + change >= least]
            if not movable:
                break
            group = int(generator.choice(movable))
            before = places[group]
            places[group] += step
            removed += float(problem.removed[ladders[group][places[group]]] - problem.removed[ladders[group][before]])
    return np.array([own[place] for own, place in zip(ladders, places, strict=True)])


def greedy_choice(problem: Problem, costs: Numbers, target: float) -> Choice:
    """Return the choice that always takes the option of the lowest further cost for each unit that it removes.

    Args:
        problem: the options.
        costs: of each option alone.
        target: to be removed.
    """
    choice = np.array(
        [
            np.flatnonzero(problem.group == g)[problem.removed[problem.group == g].argmin()]
            for g in range(problem.groups)
        ]
    )
    while problem.total(choice) < (1 - _ROUNDING) * target:
        now = choice[problem.group]
        freed = problem.removed - problem.removed[now]
        rates = np.where(freed > 0, (costs - costs[now]) / np.where(freed > 0, freed, 1), np.inf)
        best = int(rates.argmin())
        choice[problem.group[best]] = best
    return choice
