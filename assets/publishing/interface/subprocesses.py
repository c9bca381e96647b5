"""The programs of `prunescope ui`: `dagster dev`, and the web server, daemon and code servers that it starts.

Those end with the process that started them, even if that is killed. Dagster's own would keep running and hold the
port, or for most of a minute the memory.
"""

import signal
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

# Dagster does not document `open_ipc_subprocess`; test_interface starts the programs through it.
from dagster_shared import ipc

from prunescope.assets.execution.signals import end_with_parent

# By module that Dagster starts, the name of our program.
_PROGRAMS = {"dagster_webserver": "webserver", "dagster._daemon": "daemon", "dagster": "code"}


def main() -> None:
    """Run the program that the first argument names, with the other arguments."""
    program = sys.argv.pop(1)
    if program == "dev":
        # A shell script starts what it puts into the background with SIGINT ignored. Dagster gives SIGTERM the action
        # of SIGINT and stops its servers by SIGINT, so nothing but SIGKILL would end them.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv.insert(1, "dev")
    else:
        end_with_parent()
    if program == "webserver":
        from prunescope.assets.publishing.interface.webserver import main as start
    else:
        if program != "daemon":
            _start_ours()
        [command] = entry_points(group="console_scripts", name="dagster-daemon" if program == "daemon" else "dagster")
        start = command.load()
    start()


def _start_ours() -> None:
    """Make Dagster start these programs instead of its own; called before Dagster is imported.

    A code server, too, starts another one and replaces it when the code is reloaded.
    """
    start = ipc.open_ipc_subprocess

    def started(command: Sequence[str], **options: Any) -> Any:  # noqa: ANN401 - as Dagster calls it
        python, _, module, *arguments = command  # python -m MODULE ...
        return start(
            [python, "-m", "prunescope.assets.publishing.interface.subprocesses", _PROGRAMS[module], *arguments],
            **options,
        )

    vars(ipc)["open_ipc_subprocess"] = started


if __name__ == "__main__":
    main()
