"""The result of a run, and the receiver of its progress events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.studies import Study


class Listener(Progress, Protocol):
    """Receiver of a study's progress events."""

    def waiting(self) -> None:
        """Another process is computing in this warehouse; this one waits for it."""

    def planned(self, partitions: int) -> None:
        """That many partitions will be computed."""

    def computed(self, name: str, seconds: float) -> None:
        """A partition is done."""

    def shared(self, name: str, seconds: float) -> None:
        """Work is done that several partitions share; `computed` counts none of its seconds."""

    def note(self, message: str) -> None:
        """Something that the user should know, and that stops nothing."""

    def failed(self, failure: "Failure") -> None:
        """A partition failed; the run goes on with the others."""


@dataclass(frozen=True)
class Failure:
    """A partition that could not be computed.

    Attributes:
        name: `model`, `model@recipe` or the report.
        message: what went wrong and how to mend it.
        is_input: whether the user's input is at fault, rather than the computation.
        traceback: for debugging.
    """

    name: str
    message: str
    is_input: bool
    traceback: str = ""


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    Attributes:
        study: the study.
        computed: names of the partitions that were computed.
        failures: what failed.
    """

    study: Study
    computed: Sequence[str] = ()
    failures: Sequence[Failure] = ()
