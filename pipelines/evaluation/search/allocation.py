"""Choice of one treatment per sublayer: the exact optimum of a sum of costs, and random and greedy choices.

The problem is a multiple-choice knapsack: one option per sublayer, at least a target removed, at the lowest cost.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array

from prunescope.pipelines.core.errors import ComputationError, InputError

Numbers = NDArray[np.float64]
Choice = NDArray[np.int64]
# Relative distance to the target within which it counts as reached, because sums of floats round.
_ROUNDING = 1e-12
# Partial choices kept, first to find a good choice, then to find the best one.
_NARROW, _WIDE = 500, 20_000


@dataclass(frozen=True)
class Problem:
    """Options of all sublayers in one list: the sublayer of each, from 0, and what it removes, in the budget's unit."""

    group: Choice
    removed: Numbers

    @property
    def groups(self) -> int:
        """Number of sublayers."""
        return int(self.group.max()) + 1

    @property
    def most(self) -> float:
        """Largest possible removal."""
        largest = np.zeros(self.groups)
        np.maximum.at(largest, self.group, self.removed)
        return float(largest.sum())

    def total(self, choice: Choice) -> float:
        """Return what a choice removes; a choice has one option per sublayer."""
        return float(self.removed[choice].sum())

    def least(self, target: float) -> float:
        """Return the removal at which a target counts as reached."""
        return (1 - _ROUNDING) * target

    def pairs(self, current: Choice, costs: Numbers, target: float, options: Choice) -> Iterator[Choice]:
        """Yield the choices with one or two other options that cost less and reach a target, the cheapest first.

        `costs` are differences from each sublayer's current option. Only `options` may be chosen.
        """
        others = options[~np.isin(options, current)]
        # Options of one sublayer exclude each other, so a pair of the same option stands for a single change.
        first, second = (own.ravel() for own in np.meshgrid(others, others))
        is_single, change = first == second, self.removed - self.removed[current][self.group]
        gain = np.where(is_single, costs[first], costs[first] + costs[second])
        freed = np.where(is_single, change[first], change[first] + change[second])
        is_open = (is_single | (self.group[first] < self.group[second])) & (gain < 0)
        is_open &= self.total(current) + freed >= self.least(target)
        for place in np.flatnonzero(is_open)[np.argsort(gain[is_open], kind="stable")]:
            choice = current.copy()
            choice[self.group[[first[place], second[place]]]] = first[place], second[place]
            yield choice


def cheapest(
    problem: Problem,
    costs: Numbers,
    target: float,
    allowed: NDArray[np.bool_] | None = None,
    changes: tuple[Choice, int] | None = None,
) -> Choice:
    """Return the option per sublayer that reaches the target at the lowest sum of costs.

    Dynamic programming over the sublayers keeps a partial choice if no other one is better and its bound is below the
    cost of a known choice. The bound is the Lagrangian relaxation of the target. The result is exact if at most `_WIDE`
    partial choices remain. Otherwise its error is at most its distance to the best bound, which with tens of sublayers
    is far below the error of measured costs. HiGHS's integer solver was slower on such problems (a minute for 60
    sublayers with 9 options each), and its tolerances were too wide: 1e-6 of the target and of the largest cost.

    Only `allowed` options may be chosen (None: all). `changes` is a choice and how many sublayers may differ from it.

    Raises:
        InputError: the allowed options cannot reach the target.
    """
    is_open = np.ones(len(costs), dtype=bool) if allowed is None else allowed.copy()
    current, most = changes or ([], problem.groups)
    is_change = np.ones(len(costs), dtype=bool)
    is_change[current] = False
    limits = _Limits(problem, is_change, most, target)
    best, cost = None, np.inf
    for width in (_NARROW, _NARROW, _WIDE):
        extra, bound = _relaxed(limits, costs, is_open)
        gap = cost - bound + 1e-12 * abs(bound)
        found = _walk(limits, costs, extra, is_open & (extra <= gap), gap, width)
        if found is not None and costs[found].sum() < cost:
            best, cost = found, float(costs[found].sum())
        is_open &= extra <= cost - bound + 1e-12 * abs(bound)
    if best is None:
        raise InputError(f"the menu cannot remove {target:,.0f}; it removes at most {problem.most:,.0f}")
    return best


def uniform_choice(problem: Problem, sizes: Numbers, target: float, allowed: NDArray[np.bool_]) -> Choice:
    """Return the choice that removes nearly the same share of every sublayer (of `sizes`); errors as in `cheapest`."""
    # The cost per weight grows with the share, so that equal shares cost least.
    return cheapest(problem, problem.removed**3 / sizes[problem.group] ** 2, target, allowed)


@dataclass(frozen=True)
class _Limits:
    """Limits of a choice: it removes at least the target, and at most `changes` of its options are changes."""

    problem: Problem
    is_change: NDArray[np.bool_]
    changes: int
    target: float


def _relaxed(limits: _Limits, costs: Numbers, is_open: NDArray[np.bool_]) -> tuple[Numbers, float]:
    """Return what each option adds to a lower bound of all choices' costs, and that bound, by Lagrange multipliers.

    Any non-negative multipliers give a bound; those of the linear program give the highest.
    """
    problem, options = limits.problem, np.flatnonzero(is_open)
    unit, scale = max(limits.target, 1.0), max(float(np.abs(costs[options]).max(initial=0)), np.finfo(float).tiny)
    one_each = coo_array((np.ones(len(options)), (problem.group[options], np.arange(len(options)))))
    solved = linprog(
        costs[options] / scale,
        A_ub=np.stack([-problem.removed[options] / unit, limits.is_change[options].astype(float)]),
        b_ub=[-problem.least(limits.target) / unit, limits.changes],
        A_eq=one_each,
        b_eq=np.ones(problem.groups),
    )
    if solved.status == 2:  # infeasible
        raise InputError(f"the menu cannot remove {limits.target:,.0f}; it removes at most {problem.most:,.0f}")
    if solved.status != 0:
        raise ComputationError(f"the allocation was not solved: {solved.message}")
    price, toll = np.maximum(-solved.ineqlin.marginals * scale, 0) / (unit, 1)
    reduced = costs - price * problem.removed + toll * limits.is_change
    lowest = np.full(problem.groups, np.inf)
    np.minimum.at(lowest, problem.group[options], reduced[options])
    bound = float(lowest.sum() + price * problem.least(limits.target) - toll * limits.changes)
    return reduced - lowest[problem.group], bound


def _walk(
    limits: _Limits, costs: Numbers, extra: Numbers, is_open: NDArray[np.bool_], gap: float, width: int
) -> Choice | None:
    """Return the cheapest choice whose extras sum to at most the gap; None if there is none.

    `extra` is what each option adds to the bound. `gap` is the distance of the bound from the cost of a known choice.
    The `width` partial choices with the lowest extras are kept.
    """
    problem, least = limits.problem, limits.problem.least(limits.target)
    ladders = [np.flatnonzero(is_open & (problem.group == group)) for group in range(problem.groups)]
    if not all(len(own) for own in ladders):
        return None
    ahead = np.cumsum([problem.removed[own].max() for own in reversed(ladders)])[::-1] - [
        problem.removed[own].max() for own in ladders
    ]
    removed, cost, extras, changes = np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1, dtype=int)
    steps = list[tuple[Choice, Choice]]()  # per sublayer: the earlier partial choice and the option that each one adds
    for own, most in zip(ladders, ahead, strict=True):
        before, option = (part.ravel() for part in np.meshgrid(np.arange(len(cost)), own, indexing="ij"))
        sums = (
            removed[before] + problem.removed[option],
            cost[before] + costs[option],
            extras[before] + extra[option],
            changes[before] + limits.is_change[option],
        )
        kept = np.flatnonzero((sums[2] <= gap) & (sums[0] + most >= least) & (sums[3] <= limits.changes))
        kept = kept[_unsurpassed(sums[0][kept], sums[1][kept], sums[3][kept])]
        if len(kept) > width:
            kept = kept[np.argpartition(sums[2][kept], width)[:width]]
        if not len(kept):
            return None
        removed, cost, extras, changes = (part[kept] for part in sums)
        steps.append((before[kept], option[kept]))
    place = int(cost.argmin())
    choice = []
    for before, option in reversed(steps):
        choice.append(option[place])
        place = before[place]
    return np.array(choice[::-1])


def _unsurpassed(removed: Numbers, cost: Numbers, changes: Choice) -> Choice:
    """Return the indices of the partial choices that cost less than all that remove as much with as many changes."""
    order = np.lexsort((cost, -removed, changes))
    # Costs are lowered from one number of changes to the next, so that one running minimum serves all.
    lowered = cost[order] - changes[order] * (1 + np.ptp(cost) if len(cost) else 0)
    earlier = np.concatenate([[np.inf], np.minimum.accumulate(lowered)[:-1]]) if len(cost) else lowered
    return order[lowered < earlier]


def random_choice(problem: Problem, target: float, generator: np.random.Generator) -> Choice:
    """Return a random option per sublayer, moved in random steps until the target is just reached."""
    ladders = [np.flatnonzero(problem.group == group) for group in range(problem.groups)]
    ladders = [own[np.argsort(problem.removed[own], kind="stable")] for own in ladders]
    places = [int(generator.integers(len(own))) for own in ladders]
    removed = float(sum(problem.removed[own[place]] for own, place in zip(ladders, places, strict=True)))
    least = problem.least(target)
    for step in (1, -1):
        # Step up until the target is reached. Then step sublayers down in random order, as long as the target holds.
        while removed < least if step == 1 else True:
            changes = {
                group: float(problem.removed[own[place + step]] - problem.removed[own[place]])
                for group, (own, place) in enumerate(zip(ladders, places, strict=True))
                if 0 <= place + step < len(own)
            }
            movable = [group for group, change in changes.items() if step == 1 or removed + change >= least]
            if not movable:
                break
            group = int(generator.choice(movable))
            places[group] += step
            removed += changes[group]
    return np.array([own[place] for own, place in zip(ladders, places, strict=True)])


def greedy_choice(problem: Problem, costs: Numbers, target: float) -> Choice:
    """Return the choice that always takes the option with the lowest additional cost per unit that it removes."""
    ladders = (np.flatnonzero(problem.group == group) for group in range(problem.groups))
    choice = np.array([own[problem.removed[own].argmin()] for own in ladders])
    while problem.total(choice) < problem.least(target):
        now = choice[problem.group]
        freed = problem.removed - problem.removed[now]
        rates = np.where(freed > 0, (costs - costs[now]) / np.where(freed > 0, freed, 1), np.inf)
        best = int(rates.argmin())
        if not np.isfinite(rates[best]):
            break  # nothing is left to remove
        choice[problem.group[best]] = best
    return choice


def filled_up(problem: Problem, costs: Numbers, choice: Choice, target: float) -> Choice:
    """Return the choice with more sublayers kept, as many as the target allows, in descending order of cost per unit.

    The first option of a sublayer is to keep it.
    """
    kept = np.unique(problem.group, return_index=True)[1]
    gain, freed = costs[choice] - costs[kept], problem.removed[choice] - problem.removed[kept]
    rates = np.divide(gain, freed, out=np.full(len(freed), np.inf), where=freed > 0)
    choice = choice.copy()
    for group in np.argsort(-rates, kind="stable"):
        if problem.total(choice) - freed[group] >= problem.least(target):
            choice[group] = kept[group]
    return choice
