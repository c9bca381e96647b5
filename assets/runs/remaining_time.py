"""The remaining time of a run, from the predicted seconds of its stages and those that the finished ones took.

The predictions come from `prunescope.assets.runs.forecast`, which needs the models; this module imports nothing heavy.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunescope.pipelines.planning.cost_model import pace

# Time of a stage apart from its work: Dagster's events, checks, writing.
_OVERHEAD_SECONDS = 0.5


@dataclass(frozen=True)
class Stage:
    """One step of one partition.

    Attributes:
        name: the partition, as `Listener.computed` names it.
        step: the step.
        cost: predicted seconds of its work.
        fixed: seconds that it takes in addition, independent of the pace.
    """

    name: str
    step: str
    cost: float
    fixed: float = _OVERHEAD_SECONDS


class RemainingTime:
    """The stages that are left, and how many seconds they will take.

    A stage takes its predicted seconds times the pace of the finished stages of its step. Other steps say nothing,
    because predictions leave out more of pruning than of passes over texts.

    Args:
        stages: all stages of the run, in any order.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, stages: Sequence[Stage], clock: Callable[[], float] = time.monotonic) -> None:
        self._left = {(stage.name, stage.step): stage for stage in stages}
        self._clock = clock
        self._began = self._stage_began = clock()
        self._current: Stage | None = None
        # Predicted and measured seconds of each finished stage, by step.
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

    def seconds(self, task_left: float = 0.0) -> float:
        """Return the seconds that are left.

        Args:
            task_left: the seconds that the current task will still take, by its own progress.
        """
        # Copies, because bars ask from a thread of their own.
        stage, spent, stages = self._current, self._clock() - self._stage_began, list(self._left.values())
        paces = {step: pace(list(own)) for step, own in list(self._finished.items())}
        left = {one: one.fixed + one.cost * paces.get(one.step, 1.0) for one in stages}
        current = 0.0 if stage is None else max(left.pop(stage, 0.0) - spent, task_left, 0.0)
        return current + sum(left.values())
