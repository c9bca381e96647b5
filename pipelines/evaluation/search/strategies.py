"""Strategies of a search: how the next allocations are proposed, measured and accepted.

`searched` minimises the KL at the output. Its control `hidden` minimises 1 − cos of the final hidden states, by the
same steps from the same uniform allocation, whose method the KL chose. `random` and `greedy` spend as many
measurements. From a pruned model, `searched` is `Restoration`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.search.allocation import Choice, Numbers, Problem, cheapest
from prunescope.pipelines.evaluation.search.menu import KEEP, Allocation, Menu
from prunescope.pipelines.evaluation.search.trials import Trial

# Number of options to measure inside an allocation that remove more, and number of those that remove less.
_CANDIDATES = 20
# If all changes together make it worse, the next try has this many times fewer.
_FEWER = 4
# Maximum number of changes of one or two sublayers to try inside one allocation.
_PAIRS = 3


class Expired(Exception):  # noqa: N818 (not an error)
    """The time of the search is over."""


# Measures an allocation, given move, allocation, predicted objective and parent.
MeasureTrial = Callable[[str, Allocation, float | None, Trial | None], Trial]
# How much each of some options changes the objective inside an allocation; NaN for all others.
MeasureContext = Callable[[Allocation, Sequence[int]], Numbers]


@dataclass
class Strategy:
    """Steps of `searched` and `hidden` towards one target.

    Options of the menu are referred to by index: `problem` has what each removes, in the budget's unit like `target`,
    and `costs` its objective alone. `measure` measures an allocation, `in_context` single swaps. `measurements` is the
    number of trials in addition to the uniform ones and the first. `start` is the best uniform allocation; None if
    there is none.
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
        """Make the trials; raises Expired when the time of the search is over."""
        try:
            choice = cheapest(self.problem, self.costs, self.target)
        except InputError:
            # Unsplit sparsities just reach the target; split ones can round to less.
            if self.start is None:
                raise
            return
        first = self._measure("sum", choice, float(self.costs[choice].sum()), self.start)
        best = first if self.start is None or first.is_accepted else self.start
        # The uniform allocation is not on the menu, so it has no neighbours to exchange.
        self._improve(first, best)

    def _improve(self, around: Trial, best: Trial) -> None:
        """Exchange treatments inside an allocation, and inside better ones, as often as there are measurements."""
        left = self.measurements
        while left > 0:
            better, spent = self._exchange(around, best, left)
            left -= spent
            if better is None:
                break
            best = around = better

    def _exchange(self, around: Trial, best: Trial, left: int) -> tuple[Trial | None, int]:
        """Exchange treatments by their effects inside an allocation; return a trial better than the best, if any."""
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
            # The gains of many swaps can add up to more than the whole objective.
            expected = max(0.0, total + float(costs[choice].sum()))
            trial = self._measure("exchange", choice, expected, best)
            spent += 1
            if trial.is_accepted:
                return trial, spent
        return None, spent

    def _proposals(self, current: Choice, costs: Numbers, allowed: NDArray[np.bool_]) -> Iterator[Choice]:
        """Yield untried choices that seem better: many changes at once, then fewer and fewer, then the best pairs.

        The effects of single changes do not show how two of them interact, so the second-best pair may be better.
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
        """Return the most promising options among those that remove the next larger or smaller amount.

        Half of them remove more, at the lowest cost per unit, and half remove less, at the largest gain per unit. The
        cheapest represents options that remove the same.
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


class Restoration(Strategy):
    """Steps of `searched` from a pruned model: `start` is its trial, and the menu has its treatments and keeping.

    Each step is measured inside the model as it is by then, so interactions between sublayers count.
    """

    start: Trial

    def run(self) -> None:
        """Put back sublayers one by one as far as the target allows, then exchange some; Expired as in `Strategy`."""
        best = self.start
        while (after := self._next(best)) is not None:
            best = after
        self._improve(best, best)

    def _next(self, before: Trial) -> Trial | None:
        """Put back the sublayer that lowers the KL most per unit of the budget; return None if none lowers it.

        If the whole measurement does not confirm the effect on a few items, the next sublayer is tried.
        """
        current = self.menu.choice(before.allocation)
        if not (options := self._affordable(current)):
            return None
        gains = self.in_context(before.allocation, options)[options]
        freed = self.problem.removed[current][self.problem.group[options]]
        # A treatment that saves no byte costs nothing to undo.
        is_paid = freed > 0
        for place in np.lexsort((gains / np.where(is_paid, freed, 1), is_paid)):
            if gains[place] < 0:
                choice = current.copy()
                choice[self.problem.group[options[place]]] = options[place]
                expected = max(0.0, float(before.objective.mean() + gains[place]))
                trial = self._measure("restore", choice, expected, before)
                if trial.is_accepted:
                    return trial
        return None

    def _affordable(self, current: Choice) -> list[int]:
        """Return the options that keep one more sublayer and still remove enough."""
        left = self.problem.total(current) - self.problem.removed[current][self.problem.group]
        is_kept = np.array([option.treatment == KEEP for option in self.menu.options])
        is_other = ~np.isin(np.arange(len(is_kept)), current)
        return [*map(int, np.flatnonzero(is_kept & is_other & (left >= self.problem.least(self.target))))]
