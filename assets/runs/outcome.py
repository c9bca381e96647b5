"""The result of a run, and the receiver of its progress events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.studies import Study

# The name of the answers where partitions have theirs.
ANSWERS_NAME = "questions, figures and report"


@dataclass(frozen=True)
class Stage:
    """One step of one partition.

    Attributes:
        name: the partition, as `Listener.computed` names it.
        step: the step.
        seconds: how long it is predicted to take.
    """

    name: str
    step: str
    seconds: float


class Listener(Progress, Protocol):
    """The receiver of a study's progress events."""

    def waiting(self, holder: str) -> None:
        """Receive that this process waits for another one that computes in this warehouse."""

    def planned(self, partitions: int, stages: Sequence[Stage] = ()) -> None:
        """Receive the number of partitions to compute, and their stages with the predicted seconds of each."""

    def begins(self, name: str, step: str) -> None:
        """Receive that a stage of a partition begins; a cluster's workers do not tell."""

    def computed(self, name: str, seconds: float) -> None:
        """Receive a finished partition; its seconds leave out what the dense model takes, which all variants share."""

    def note(self, message: str) -> None:
        """Receive a message to the user that stops nothing."""

    def failed(self, failure: "Failure") -> None:
        """Receive a failed partition; the run goes on with the others."""


@dataclass(frozen=True)
class Failure:
    """A partition that could not be computed.

    Attributes:
        name: `model`, `model search`, `model@recipe` or the report.
        message: the error and how to fix it.
        is_input: whether the user's input caused the error.
    """

    name: str
    message: str
    is_input: bool
    traceback: str = ""


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        computed: names of the partitions that were computed.
    """

    study: Study
    computed: Sequence[str] = ()
    failures: Sequence[Failure] = ()
