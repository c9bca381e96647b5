"""What is asked of an engine, and what it says it has written: one partition of one step, as plain values.

No Dagster and no torch: both travel as JSON between processes and machines.
"""

from dataclasses import dataclass, field
from typing import Self

from pydantic import TypeAdapter

from prunescope.assets.planning.fingerprints import (
    MASK_TABLE,
    MODEL_TABLES,
    RETRIEVAL_TABLES,
    SPEED_TABLE,
    TASK_TABLES,
    TEXT_TABLE,
    TRACE_TABLES,
)
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.warehouse.quality.checks import Violation
from prunescope.warehouse.quality.plausibility_checks import CheckResult

# The tables of each step: they come out of one computation, so they are computed together or not at all.
STEPS = {
    "models": MODEL_TABLES[:1],
    "calibration": MODEL_TABLES[1:],
    "variants": ("variants",),
    "mask_samples": (MASK_TABLE,),
    "traces": TRACE_TABLES,
    "texts": (TEXT_TABLE,),
    "tasks": TASK_TABLES,
    "retrieval": RETRIEVAL_TABLES,
    "speed": (SPEED_TABLE,),
}


@dataclass(frozen=True)
class ComputeTask:
    """One step for one model or variant.

    Attributes:
        step: one of STEPS.
        request: the study.
        root: the warehouse.
        model: name of the model.
        recipe: name of the recipe; None in the steps of models.
        beside: recipes of the same step that will be asked for next. An engine may compute some of them along, so
            that they share passes over tokens or the dense side, and keep them until they are asked for.
        is_halved: whether half of what usually passes through the model at once shall pass, because the worker that
            tried before was lost, most likely to the memory.
    """

    step: str
    request: StudyRequest
    root: str
    model: str
    recipe: str | None = None
    beside: tuple[str, ...] = ()
    is_halved: bool = False

    @property
    def name(self) -> str:
        """As logs and messages call it: `model@recipe step`."""
        return f"{self.model}@{self.recipe} {self.step}" if self.recipe else f"{self.model} {self.step}"

    def to_json(self) -> str:
        """One line of JSON."""
        return _PART.dump_json(self).decode()

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The part that `to_json` wrote; pydantic's ValidationError where it is none."""
        return _PART.validate_json(line)


@dataclass(frozen=True)
class TaskResult:
    """What became of one table's partition.

    Attributes:
        table: name of the table.
        is_left_alone: the study asks nothing of this table, which is as it was; nothing of the rest is told then.
        fingerprint: of all that the rows follow from.
        rows: number of rows.
        bytes: size of the file.
        path: the file.
        violations: rules of the table that rows break.
        orphaned: tables in which rows that this one refers to are missing.
        drifts: comparisons of its numbers, those that are as they should be among them.
        seconds: of the computation.
        device: where it ran.
        shown: what people are shown besides, by name: a number, or a text in Markdown.
    """

    table: str
    is_left_alone: bool = False
    fingerprint: str = ""
    rows: int = 0
    bytes: int = 0
    path: str = ""
    violations: tuple[Violation, ...] = ()
    orphaned: tuple[str, ...] = ()
    drifts: tuple[CheckResult, ...] = ()
    seconds: float = 0.0
    device: str = ""
    shown: dict[str, float | str] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON."""
        return _REPORT.dump_json(self).decode()

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The report that `to_json` wrote; pydantic's ValidationError where it is none."""
        return _REPORT.validate_json(line)


_PART = TypeAdapter(ComputeTask)
_REPORT = TypeAdapter(TaskResult)
