"""The worker on a machine of a Ray cluster: a process that keeps one model in memory and computes one task at a time.

A task is never divided by prompts: matrix products of other shapes sum in another order, so the bits would differ from
those of the whole, and a partition is one file.
"""

import os
import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from prunescope.assets.execution.error_transport import KINDS, TransientError, is_transient
from prunescope.assets.execution.model_cache import ModelCache
from prunescope.assets.execution.partition_context import LIBRARIES
from prunescope.assets.execution.step_functions import compute
from prunescope.assets.execution.task import TASK, TaskResult
from prunescope.assets.planning.steps import CODE_VERSIONS
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store


@dataclass(frozen=True)
class WorkerConfig:
    """The driver's configuration for a worker. Passed as an argument, because Ray logs runtime environments.

    Attributes:
        environment: the driver's variables for storage and the hub; variables of the machine take precedence.
        versions: result of `versions` on the driver.
        root: the warehouse.
        marker: a file that the driver keeps in the warehouse; empty for an object store.
        host: the driver's machine.
    """

    environment: Mapping[str, str] = field(repr=False)
    versions: Mapping[str, str]
    root: str
    marker: str
    host: str


@dataclass(frozen=True)
class TaskOutcome:
    """The results of a task, one per written table, and the error that ended it, if any."""

    results: tuple[TaskResult, ...] = ()
    error: Exception | None = None


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all machines; builds of torch may differ."""
    libraries = {name: version(name).partition("+")[0] for name in LIBRARIES}
    return {f"code of {table}": code for table, code in CODE_VERSIONS.items()} | libraries


class Worker:
    """The actor."""

    def __init__(self) -> None:
        self._cache = ModelCache()
        self._driver = ""

    def prepare(self, config: WorkerConfig) -> Exception | None:
        """Apply the configuration; return the reason why this machine cannot work with it, or None."""
        self._driver = config.host
        for name, value in config.environment.items():
            os.environ.setdefault(name, value)
        own = versions()
        for name, required in config.versions.items():
            if own.get(name) != required:
                return self._portable(
                    InputError(f"{name} is {own.get(name)}, not {required}; install the same on every machine")
                )
        try:
            Store(config.root).require()
        except WarehouseError as error:
            return self._portable(error)
        if config.marker and not Path(config.marker).exists():
            return self._portable(
                InputError(
                    f"the folder {config.root} is not the one that the driver writes to; "
                    "give a folder that all machines share, or s3://BUCKET/PREFIX, as --warehouse"
                )
            )
        return None

    def compute(self, line: bytes) -> TaskOutcome:
        """Compute the task in a line of JSON; an error is returned as part of the outcome."""
        results: list[TaskResult] = []
        try:
            results.extend(compute(TASK.validate_json(line), self._cache))
        except Exception as error:  # the driver raises it
            return TaskOutcome(tuple(results), self._portable(error))
        return TaskOutcome(tuple(results))

    def _portable(self, error: Exception) -> Exception:
        """Return a copy that the driver can unpickle; it names this machine unless it is the driver's."""
        host = socket.gethostname()
        where = "" if host == self._driver else f" (on {host})"
        kind = next((base for base in type(error).__mro__ if base.__name__ in KINDS), None)
        if is_transient(error):
            copy: Exception = TransientError(f"{error}{where}")
        elif kind is not None:
            copy = KINDS[kind.__name__](f"{error}{where}")
        else:
            copy = RuntimeError(f"{type(error).__name__}: {error}{where}")
        copy.add_note("".join(traceback.format_exception(error)))
        return copy
