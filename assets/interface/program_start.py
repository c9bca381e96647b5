"""Replacement of Dagster's programs by ours, which end with the process that started them."""

from types import ModuleType
from typing import Any

# By module that Dagster starts, our program in `subprocesses`.
_PROGRAMS = {"dagster_webserver": "webserver", "dagster._daemon": "daemon", "dagster": "code"}


def start_ours(starter: ModuleType) -> None:
    """Make a module of Dagster's start our programs instead of its own."""
    # `open_ipc_subprocess` is not public; test_ui starts the interface through it.
    start = starter.open_ipc_subprocess

    def started(command: list[str], **options: Any) -> Any:  # noqa: ANN401 - as Dagster calls it
        python, _, module, *arguments = command  # python -m MODULE ...
        return start(
            [python, "-m", "prunescope.assets.interface.subprocesses", _PROGRAMS[module], *arguments], **options
        )

    starter.open_ipc_subprocess = started
