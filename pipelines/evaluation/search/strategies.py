"""Strategies of a search: how the next allocations are proposed, measured and accepted.

`searched` minimises the KL at the output and `hidden`, its control, 1 − cos of the final hidden states, by the same
steps from the same uniform allocation, whose method the KL chose; `random` and `greedy` spend the same number of
measurements.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.search.allocation import Choice, Numbers, Problem, cheapest
from prunescope.pipelines.evaluation.search.menu import Allocation, Menu
from prunescope.pipelines.evaluation.search.trials import Trial

# Options that are measured inside an allocation, of those that remove more and of those that remove less.
_CANDIDATES = 20
# Divisor of the number of changes for the next try, after all of them together made it worse.
_FEWER = 4
# Changes of one or two sublayers that are tried at most inside one allocation.
_PAIRS = 3


class Expired(Exception):  # noqa: N818 (no error)
    """The time of the search is over."""


# Measures an allocation: move, allocation, predicted objective and parent.
MeasureTrial = Callable[[str, Allocation, float | None, Trial | None], Trial]
# Objective inside an allocation of some options less that of the allocation; NaN for the others.
MeasureContext = Callable[[Allocation, Sequence[int]], Numbers]


@dataclass
class Strategy:
    """The steps of `searched` and `hidden` towards one target.

    Attributes:
        menu: options in the order of the numbers below.
        problem: what each removes.
        target: to be removed, in the budget's unit.
        costs: objective of each option alone.
        measure: measures an allocation.
        in_context: measures single swaps.
        measurements: trials beside the uniform ones and the first.
        start: the best uniform allocation; None without one.
    """

    menu: Menu
    problem: Problem
    target: float
    costs: Numbers
    measure: MeasureTrial
    in_context: MeasureContext
    measurements: int
    start: Trial | None = None
    _tried: set[bytes] = field(default_factory=set)

    def run(self) -> None:
        """Make the trials.

        Raises:
            Expired: the time of the search is over.
        """
        try:
            choice = cheapest(self.problem, self.costs, self.target)
        except InputError:
            # Split sparsities round to less than unsplit ones, which just reach the target.
            if self.start is None:
                raise
            return
        first = self._measure("sum", choice, float(self.costs[choice].sum()), self.start)
        best = first if self.start is None or first.is_accepted else self.start
        # The same sparsity everywhere is not on the menu and has no neighbours to exchange.
        around, left = first, self.measurements
        while left > 0:
            better, spent = self._exchange(around, best, left)
            left -= spent
            if better is None:
                break
            best = around = better

    def _exchange(self, around: Trial, best: Trial, left: int) -> tuple[Trial | None, int]:
        """Exchange treatments by their effects inside an allocation; return the trial that is better than the best.

        Args:
            around: has the allocation; it is the best trial, or the best of the menu's treatments.
            best: the best trial.
            left: trials that may be made.
        """
        current = self.menu.choice(around.allocation)
        options = self._neighbours(current)
        total = float(around.objective.mean())
        costs = self.in_context(around.allocation, options)
        costs[current] = 0
        allowed = np.isfinite(costs)
        costs = np.where(allowed, costs, 0)
        spent = 0
        for choice in self._proposals(current, costs, allowed):
            if spent == left:
                break
            # The gains of many swaps add up to more than there is to gain.
            expected = max(0.0, total + float(costs[choice].sum()))
            trial = self._measure("exchange", choice, expected, best)
            spent += 1
            if trial.is_accepted:
                return trial, spent
        return None, spent

    def _proposals(self, current: Choice, costs: Numbers, allowed: NDArray[np.bool_]) -> Iterator[Choice]:
        """Yield choices that were not tried and seem to be better: ever fewer changes at once, then the best of two.

        Effects of single changes do not say how two of them act together, so that the second-best pair may be better.
        """
        most = len(current)
        while most > 2:
            choice = cheapest(self.problem, costs, self.target, allowed, (current, most))
            changes = int((choice != current).sum())
            if not changes or costs[choice].sum() >= 0:
                return
            if choice.tobytes() not in self._tried:
                yield choice
            most = changes // _FEWER
        pairs = 0
        for choice in self.problem.pairs(current, costs, self.target, np.flatnonzero(allowed)):
            if pairs == _PAIRS:
                return
            if choice.tobytes() not in self._tried:
                pairs += 1
                yield choice

    def _measure(self, move: str, choice: Choice, expected: float, parent: Trial | None) -> Trial:
        self._tried.add(choice.tobytes())
        return self.measure(move, self.menu.allocation(choice), expected, parent)

    def _neighbours(self, current: Choice) -> list[int]:
        """Return the options next to the current ones in what they remove, those that seem to pay most.

        Half of them remove more, at the lowest cost for each unit, and half remove less, at the largest gain. Of
        options that remove the same the cheapest is taken.
        """
        more, less = list[tuple[float, int]](), list[tuple[float, int]]()
        for group, now in enumerate(current):
            own = np.flatnonzero(self.problem.group == group)
            change = self.problem.removed[own] - self.problem.removed[now]
            for side, is_further in ((more, change > 0), (less, change < 0)):
                if is_further.any():
                    nearest = np.lexsort((self.costs[own[is_further]], np.abs(change[is_further])))[0]
                    other, step = int(own[is_further][nearest]), float(change[is_further][nearest])
                    side.append((float(self.costs[other] - self.costs[now]) / step, other))
        cheap, dear = sorted(more)[:_CANDIDATES], sorted(less, reverse=True)[:_CANDIDATES]
        return sorted(option for _, option in (*cheap, *dear))
