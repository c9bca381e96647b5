"""Replacement of the programs that Dagster starts by ours, which end with the process that started them."""

from types import ModuleType
from typing import Any

# The modules that Dagster starts, and what we call the programs in their place.
_PROGRAMS = {"dagster_webserver": "webserver", "dagster._daemon": "daemon", "dagster": "code"}


def start_ours(starter: ModuleType) -> None:
    """Lets a module of Dagster's start these programs in the place of its own."""
    start = starter.open_ipc_subprocess

    def started(command: list[str], **options: Any) -> Any:  # noqa: ANN401 - as Dagster calls it
        python, _, module, *arguments = command  # python -m MODULE ...
        return start(
            [python, "-m", "prunescope.assets.interface.subprocesses", _PROGRAMS[module], *arguments], **options
        )

    starter.open_ipc_subprocess = started
