"""The remaining time of a run, from the cost of its stages and the time that the finished ones took.

The costs come from `prunescope.assets.runs.stages`, which needs the models; this module imports nothing heavy.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# Time of a stage apart from its work: Dagster's events, checks, writing.
_OVERHEAD_SECONDS = 0.5
# Seconds at a pace of 1 that count beside the finished stages, and at the pace of all beside those of a step: of a
# small model the pace is mostly overhead.
_PRIOR_SECONDS = 20.0
# A bar says how long its task takes only after this share of it.
_MIN_SHARE = 0.1
# A stage counts with at most this multiple of the median pace: it was suspended, or shared the machine with other work.
_MAX_PACES = 3.0


@dataclass(frozen=True)
class Stage:
    """One step of one partition.

    Attributes:
        name: the partition, as `Listener.computed` names it.
        step: the step.
        cost: seconds of its work on a typical machine; only ratios of costs matter.
        fixed: seconds on every machine.
    """

    name: str
    step: str
    cost: float
    fixed: float = _OVERHEAD_SECONDS


class RemainingTime:
    """The stages that are left, and how many seconds they will take.

    A stage takes its cost times the pace of the finished stages of the same step, else the pace of all finished stages.

    Args:
        stages: all stages of the run, in any order.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, stages: Sequence[Stage], clock: Callable[[], float] = time.monotonic) -> None:
        self._left = {(stage.name, stage.step): stage for stage in stages}
        self._clock = clock
        self._began = self._stage_began = clock()
        self._current: Stage | None = None
        # Cost and seconds of each finished stage, by step.
        self._finished: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.total = len(stages)

    @property
    def done(self) -> int:
        """Return how many stages are finished."""
        return self.total - len(self._left)

    @property
    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._began

    def begin(self, name: str, step: str) -> None:
        """Begin a stage; the previous one has ended."""
        self.end()
        self._stage_began, self._current = self._clock(), self._left.get((name, step))

    def end(self) -> tuple[Stage, float] | None:
        """End the current stage, if any; return it and its seconds."""
        stage, self._current = self._current, None
        if stage is None:
            return None
        del self._left[stage.name, stage.step]
        seconds = self._clock() - self._stage_began
        if stage.cost:
            self._finished[stage.step].append((stage.cost, max(0.0, seconds - stage.fixed)))
        return stage, seconds

    def drop(self, name: str) -> None:
        """Remove a computed partition, with the stages that it did not begin."""
        self._left = {key: stage for key, stage in self._left.items() if stage.name != name}

    def fail(self, name: str) -> None:
        """Remove a failed partition, and of a failed model all that reads it; the pace leaves its seconds out."""
        if self._current is not None and self._current.name == name:
            self._current = None
        of_model = f"{name}@", f"{name} "
        self._left = {
            key: stage
            for key, stage in self._left.items()
            if stage.name != name and not stage.name.startswith(of_model)
        }

    def seconds(self, task_share: float = 0.0, task_seconds: float = 0.0) -> float | None:
        """Return the seconds that are left; None while nothing is known of this machine's speed.

        Args:
            task_share: the share of the current task that is done.
            task_seconds: the time since the current task began.
        """
        own = task_seconds * (1 - task_share) / task_share if task_share >= _MIN_SHARE else 0.0
        stage, spent = self._current, self._clock() - self._stage_began
        # Copies, because bars ask from a thread of their own.
        stages, finished = list(self._left.values()), {step: list(own) for step, own in list(self._finished.items())}
        totals = {step: _totals(own) for step, own in finished.items()}
        cost, seconds = (sum(each) for each in zip(*totals.values(), strict=True)) if totals else (0.0, 0.0)
        if stage is not None and stage.cost and own and not cost:
            cost, seconds = stage.cost, spent + own
        if not cost and any(left.cost for left in stages):
            return None
        pace = (seconds + _PRIOR_SECONDS) / (cost + _PRIOR_SECONDS)
        # A short first stage of a step says little of the long ones.
        paces = {
            step: (seconds + pace * _PRIOR_SECONDS) / (cost + _PRIOR_SECONDS)
            for step, (cost, seconds) in totals.items()
        }
        others = sum(left.fixed + left.cost * paces.get(left.step, pace) for left in stages if left is not stage)
        if stage is None:
            return others
        return others + max(stage.fixed + stage.cost * paces.get(stage.step, pace) - spent, own, 0.0)


def _totals(stages: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the cost and the seconds of a step's stages, without those beyond three times their median pace."""
    by_pace = sorted((seconds / cost, cost) for cost, seconds in stages)
    total, below, most = sum(cost for _, cost in by_pace), 0.0, math.inf
    for pace, cost in by_pace:
        below += cost
        if below >= total / 2:
            # Without a time beyond their overhead, most stages say nothing of the others.
            most = _MAX_PACES * pace or math.inf
            break
    return total, sum(cost * min(pace, most) for pace, cost in by_pace)
