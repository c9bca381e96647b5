"""The result of a run, the receiver of its progress events, and what is refused before it."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prunescope.assets.execution.error_transport import KINDS, error_line, is_error
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.studies import Study

# The name of the answers where partitions have theirs.
ANSWERS_NAME = "questions, figures and report"


class Listener(Progress, Protocol):
    """The receiver of a study's progress events."""

    def planned(self, partitions: int) -> None:
        """Receive the number of partitions to compute."""

    def begins(self, name: str, step: str) -> None:
        """Receive that a step of a partition begins; on a cluster, only when its task has ended."""

    def computed(self, name: str, seconds: float) -> None:
        """Receive a finished partition; its seconds leave out what the dense model takes, which all variants share."""

    def note(self, message: str) -> None:
        """Receive a message to the user that stops nothing."""

    def failed(self, name: str, message: str) -> None:
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


def refused(models: Sequence[str], check: Callable[[str], object], listener: Listener) -> dict[str, Failure]:
    """Call a function with the name of each model; return the failures of those for which it raises any error.

    The listener receives each failure.

    Raises:
        InputError, WarehouseError, ComputationError: the error of the first model, if every model has one.
    """
    failures, errors = dict[str, Failure](), list[BaseException]()
    for name in models:
        try:
            check(name)
        except BaseException as error:
            if not is_error(error):
                raise
            errors.append(error)
            failures[name] = Failure(name, error_line(error), isinstance(error, InputError), traceback.format_exc())
    if errors and len(errors) == len(models):
        if isinstance(errors[0], (*KINDS.values(), OSError)):
            raise errors[0]
        raise ComputationError(f"{models[0]} cannot be read: {error_line(errors[0])}") from errors[0]
    for failure in failures.values():
        listener.failed(failure.name, failure.message)
    return failures
