"""The worker on a machine of a Ray cluster: a process that keeps one model in memory and computes one task at a time.

A task is never divided by prompts: matrix products of other shapes sum in another order, so the bits would differ from
those of the whole, and a partition is one file.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from prunescope.assets.execution.compute import compute
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.partition_context import LIBRARIES
from prunescope.assets.execution.task import Event, ModelTask, StepFailed
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


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all machines; builds of torch may differ."""
    libraries = {name: version(name).partition("+")[0] for name in LIBRARIES}
    return {f"code of {table}": code for table, code in CODE_VERSIONS.items()} | libraries


class Worker:
    """The actor; Ray starts it again, with the same configuration, if its process dies."""

    def __init__(self, config: WorkerConfig) -> None:
        """Apply the configuration."""
        self._config, self._session = config, ModelSession()
        for name, value in config.environment.items():
            os.environ.setdefault(name, value)

    def refusal(self) -> Exception | None:
        """Return the reason why this machine cannot work with the configuration, or None."""
        config, own, where = self._config, versions(), self._where()
        for name, required in config.versions.items():
            if own.get(name) != required:
                return InputError(
                    f"{name} is {own.get(name)}, not {required}; install the same on every machine{where}"
                )
        try:
            Store(config.root).require()
        except WarehouseError as error:
            return WarehouseError(f"{error}{where}")
        if config.marker and not Path(config.marker).exists():
            return InputError(
                f"the folder {config.root} is not the one that the driver writes to; give a folder that all machines "
                f"share, or s3://BUCKET/PREFIX, as --warehouse{where}"
            )
        return None

    def compute(self, task: ModelTask) -> list[Event]:
        """Compute a task, with half of the batches if this process replaces one that died."""
        import ray

        where = self._where()
        is_restarted = ray.get_runtime_context().was_current_actor_reconstructed
        task = replace(task, halves_batches=task.halves_batches or is_restarted)
        return [
            replace(event, message=event.message + where) if isinstance(event, StepFailed) else event
            for event in compute(task, self._session)
        ]

    def _where(self) -> str:
        """Return the name of this machine, unless it is the driver's."""
        host = socket.gethostname()
        return "" if host == self._config.host else f" (on {host})"
