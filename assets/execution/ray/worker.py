"""What runs on the machines of a Ray cluster: a process that keeps one model in memory and computes one part at a time.

How parts get here and what happens when a machine dies is `ray_fleet.py`'s. A part is never split by prompts: products
of other shapes sum in another order, so the shards would not hold the bits of the whole, and a partition is one file.
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
from prunescope.assets.execution.task import ComputeTask, TaskResult
from prunescope.assets.planning.fingerprints import CODE_VERSIONS
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker must know before its first part. It travels as an argument: Ray logs a runtime environment.

    Attributes:
        environment: variables of the driver that storage and the hub need; the machine's own come first.
        versions: of the code and of the libraries that numbers follow from, as `versions` gives them on the driver.
        root: the warehouse.
        mark: a file that the driver keeps in the warehouse; empty where that is an object store.
        host: the driver's machine.
    """

    environment: Mapping[str, str] = field(repr=False)
    versions: Mapping[str, str]
    root: str
    mark: str
    host: str


@dataclass(frozen=True)
class TaskOutcome:
    """What became of a part: a report of every table that was written, and the error that ended it, if any."""

    reports: tuple[TaskResult, ...] = ()
    error: Exception | None = None


def versions() -> dict[str, str]:
    """What must be the same on all machines for their rows to fit together; builds of torch may differ."""
    libraries = {name: version(name).partition("+")[0] for name in LIBRARIES}
    return {f"code of {table}": code for table, code in CODE_VERSIONS.items()} | libraries


class Worker:
    """The actor."""

    def __init__(self) -> None:
        self._loaded = ModelCache()
        self._host = ""

    def prepare(self, given: WorkerConfig) -> Exception | None:
        """Takes what the driver gives; the reason why this machine cannot work with it, none if it can."""
        self._host = given.host
        for name, value in given.environment.items():
            os.environ.setdefault(name, value)
        own = versions()
        for name, wanted in given.versions.items():
            if own.get(name) != wanted:
                return self._told(
                    InputError(f"{name} is {own.get(name)}, not {wanted}; install the same on every machine")
                )
        try:
            Store(given.root).require()
        except WarehouseError as error:
            return self._told(error)
        if given.mark and not Path(given.mark).exists():
            return self._told(
                InputError(
                    f"the folder {given.root} is not the one that the driver writes to; "
                    "give a folder that all machines share, or s3://BUCKET/PREFIX, as --warehouse"
                )
            )
        return None

    def compute(self, line: str) -> TaskOutcome:
        """Computes the part of one line of JSON; an error is part of what came of it."""
        reports: list[TaskResult] = []
        try:
            reports.extend(compute(ComputeTask.from_json(line), self._loaded))
        except Exception as error:  # whatever it is, the driver says it
            return TaskOutcome(tuple(reports), self._told(error))
        return TaskOutcome(tuple(reports))

    def _told(self, error: Exception) -> Exception:
        """The error as it can travel, with the machine that it came from where that is another one."""
        host = socket.gethostname()
        where = "" if host == self._host else f" (on {host})"
        kind = next((one for one in type(error).__mro__ if one.__name__ in KINDS), None)
        if is_transient(error):
            copy: Exception = TransientError(f"{error}{where}")
        elif kind is not None:
            copy = KINDS[kind.__name__](f"{error}{where}")
        else:
            copy = RuntimeError(f"{type(error).__name__}: {error}{where}")
        copy.add_note("".join(traceback.format_exception(error)))
        return copy
