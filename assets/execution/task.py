"""Tasks and their results as plain values, which travel as JSON between processes and machines."""

from dataclasses import dataclass, field

from pydantic import TypeAdapter

from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.warehouse.quality.checks import Violation
from prunescope.warehouse.quality.plausibility_checks import CheckResult


@dataclass(frozen=True)
class ComputeTask:
    """One step for one model or variant.

    Attributes:
        root: the warehouse.
        recipe: name of the recipe; None in the steps of models.
        batch_with: recipes whose task of the same step follows. An engine may compute some of them in the same batch
            and keep the results until they are requested.
        halve_batch: whether to halve every batch, because the previous worker was lost, probably for lack of memory.
    """

    step: str
    request: StudyRequest
    root: str
    model: str
    recipe: str | None = None
    batch_with: tuple[str, ...] = ()
    halve_batch: bool = False

    @property
    def name(self) -> str:
        """Return the name in logs and messages, `model@recipe step`."""
        return f"{self.model}@{self.recipe} {self.step}" if self.recipe else f"{self.model} {self.step}"

    @property
    def partition(self) -> str:
        """Return the name of the partition, as a plan has it: `model@recipe`, `model` or `model search`."""
        if self.recipe:
            return f"{self.model}@{self.recipe}"
        return self.name if self.step == "search" else self.model


@dataclass(frozen=True)
class TaskResult:
    """The result of a task for one table.

    Attributes:
        is_skipped: whether the study does not request this table, which was left unchanged; other fields are empty.
        fingerprint: fingerprint of the rows' inputs.
        bytes: size of the file.
        violations: rules of the table that rows break.
        orphaned: referenced tables in which the rows' counterparts are missing.
        drifts: plausibility checks, passed ones included.
        details: further metadata for the UI by name: numbers, or texts in Markdown.
    """

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


TASK = TypeAdapter(ComputeTask)
RESULT = TypeAdapter(TaskResult)
