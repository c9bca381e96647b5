"""The unit of work, a model with the steps wanted of its partitions, and what its computation reports: plain values.

They are pickled on their way between processes and machines.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

from prunescope.assets.execution.error_transport import KINDS, RemoteError
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.warehouse.quality.checks import Violation
from prunescope.warehouse.quality.plausibility_checks import CheckResult


@dataclass(frozen=True)
class ModelTask:
    """A model with the steps that are wanted of its partitions; `compute` computes them in as few passes as it can.

    Attributes:
        steps: recipe and name of each step, in the order of the data flow; recipe None: the model's own partition.
        halves_batches: whether every batch is half as large, because a process was lost, probably for lack of memory.
    """

    request: StudyRequest
    root: str
    model: str
    steps: tuple[tuple[str | None, str], ...]
    halves_batches: bool = False

    def name(self, recipe: str | None, step: str) -> str:
        """Return the name of one of its partitions, as a plan has it: `model@recipe`, `model` or `model search`."""
        if recipe is not None:
            return f"{self.model}@{recipe}"
        return f"{self.model} search" if step == "search" else self.model

    @property
    def recipes(self) -> list[str]:
        """Return the recipes of its variants."""
        return list(dict.fromkeys(recipe for recipe, _ in self.steps if recipe is not None))

    def only(self, keeps: Callable[[str | None, str], bool]) -> "ModelTask":
        """Return the task with only the steps that `keeps` chooses by recipe and name."""
        return replace(self, steps=tuple(step for step in self.steps if keeps(*step)))

    def failures(self, error: BaseException) -> "list[StepFailed]":
        """Return the failure of each of its partitions, at the first step, by one error."""
        first = dict[str, tuple[str | None, str]]()
        for step in self.steps:
            first.setdefault(self.name(*step), step)
        return [StepFailed.of(*step, error) for step in first.values()]


@dataclass(frozen=True)
class StepBegun:
    """The beginning of a step of a partition; recipe None: the model's own."""

    recipe: str | None
    step: str


@dataclass(frozen=True)
class TableWritten:
    """A table that a step has written for a partition.

    Attributes:
        fingerprint: fingerprint of the rows' inputs.
        bytes: size of the file.
        violations: rules of the table that rows break.
        orphaned: referenced tables in which the rows' counterparts are missing.
        drifts: plausibility checks, passed ones included.
        details: further metadata for the UI by name: numbers, texts in Markdown, or JSON objects.
    """

    recipe: str | None
    step: str
    table: str
    fingerprint: str = ""
    rows: int = 0
    bytes: int = 0
    path: str = ""
    violations: tuple[Violation, ...] = ()
    orphaned: tuple[str, ...] = ()
    drifts: tuple[CheckResult, ...] = ()
    seconds: float = 0.0
    details: dict[str, float | str | dict[str, Any]] = field(default_factory=dict)


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
