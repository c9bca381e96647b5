"""The unit of work, a model with the partitions wanted of it, and what its computation reports: plain values.

They are pickled on their way between processes and machines.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from prunescope.assets.execution.error_transport import KINDS, RemoteError
from prunescope.assets.planning.steps import steps_writing
from prunescope.assets.planning.work_plan import PartitionWork, StudyRequest
from prunescope.warehouse.quality.checks import Violation
from prunescope.warehouse.quality.plausibility_checks import CheckResult


@dataclass(frozen=True)
class WantedPartition:
    """A partition and the steps that compute what is wanted of it.

    Attributes:
        recipe: name of the recipe; None for the model's own partition.
        steps: names of the steps, in the order of the data flow.
    """

    recipe: str | None
    steps: tuple[str, ...]

    @classmethod
    def of(cls, work: PartitionWork) -> Self:
        """Return the partition of a plan's work, with the steps that write its tables."""
        steps = tuple(step.name for step in steps_writing(work.tables))
        return cls(work.recipe.name if work.recipe else None, steps)


@dataclass(frozen=True)
class ModelTask:
    """A model with the partitions that are wanted of it; `compute` computes them in as few passes as it can.

    Attributes:
        root: the warehouse.
        halves_batches: whether every batch is half as large, because a worker was lost, probably for lack of memory.
    """

    request: StudyRequest
    root: str
    model: str
    wanted: tuple[WantedPartition, ...]
    halves_batches: bool = False

    def name(self, recipe: str | None, step: str) -> str:
        """Return the name of one of its partitions, as a plan has it: `model@recipe`, `model` or `model search`."""
        if recipe is not None:
            return f"{self.model}@{recipe}"
        return f"{self.model} search" if step == "search" else self.model

    def of(self, keeps: Callable[[str | None, str], bool]) -> "ModelTask":
        """Return the task with those steps of partitions alone that `keeps` names, by recipe and step."""
        kept = (
            replace(wanted, steps=tuple(step for step in wanted.steps if keeps(wanted.recipe, step)))
            for wanted in self.wanted
        )
        return replace(self, wanted=tuple(wanted for wanted in kept if wanted.steps))

    @property
    def title(self) -> str:
        """Return the name in logs: the partition and its step, or the model and how many partitions are wanted."""
        if len(self.wanted) == 1 and len(self.wanted[0].steps) == 1:
            [step] = self.wanted[0].steps
            partition = self.name(self.wanted[0].recipe, step)
            return partition if partition.endswith(f" {step}") else f"{partition} {step}"
        return f"{self.model} ({len(self.wanted)} partitions)"


@dataclass(frozen=True)
class StepBegun:
    """The beginning of a step of a partition; `partition` as in `ModelTask.name`."""

    partition: str
    step: str


@dataclass(frozen=True)
class TableWritten:
    """A table that a step has written for a partition.

    Attributes:
        is_skipped: whether the study does not request this table, which was left unchanged; other fields are empty.
        fingerprint: fingerprint of the rows' inputs.
        bytes: size of the file.
        violations: rules of the table that rows break.
        orphaned: referenced tables in which the rows' counterparts are missing.
        drifts: plausibility checks, passed ones included.
        details: further metadata for the UI by name: numbers, or texts in Markdown.
    """

    recipe: str | None
    step: str
    table: str
    is_skipped: bool = False
    fingerprint: str = ""
    rows: int = 0
    bytes: int = 0
    path: str = ""
    violations: tuple[Violation, ...] = ()
    orphaned: tuple[str, ...] = ()
    drifts: tuple[CheckResult, ...] = ()
    seconds: float = 0.0
    details: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepFailed:
    """The error that ended a step of a partition; the steps after it were not tried.

    Attributes:
        kind: name of the nearest class that a user can act on; empty for an unexpected error.
        traceback: of the process that computed.
    """

    recipe: str | None
    step: str
    kind: str
    message: str
    traceback: str

    @classmethod
    def of(cls, recipe: str | None, step: str, error: BaseException) -> Self:
        """Describe an error."""
        kind = next((base.__name__ for base in type(error).__mro__ if base.__name__ in KINDS), "")
        message = str(error) if kind else f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        return cls(recipe, step, kind, message, trace)

    @property
    def error(self) -> Exception:
        """Return the error, with the traceback of the process that computed as its cause."""
        error = KINDS.get(self.kind, RuntimeError)(self.message)
        error.__cause__ = RemoteError(self.traceback)
        return error


Event = StepBegun | TableWritten | StepFailed
