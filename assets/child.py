"""What `prunescope ui` starts, itself and through others: its web server, Dagster's daemon and the servers of its code.

They end with whoever started them, even by a kill. Dagster's own would stay behind and hold the port, or most of a
minute the memory.
"""

import sys
from types import ModuleType
from typing import Any

from assets.interrupts import end_with_parent

# The modules that Dagster starts, and what we call the programs in their place.
_PROGRAMS = {"dagster_webserver": "webserver", "dagster._daemon": "daemon", "dagster": "code"}


def start_ours(starter: ModuleType) -> None:
    """Lets a module of Dagster's start these programs in the place of its own."""
    start = starter.open_ipc_subprocess

    def started(command: list[str], **options: Any) -> Any:  # noqa: ANN401 - as Dagster calls it
        python, _, module, *arguments = command  # python -m MODULE ...
        return start([python, "-m", "assets.child", _PROGRAMS[module], *arguments], **options)

    starter.open_ipc_subprocess = started


def main() -> None:
    """The program that the first argument names, with the other arguments."""
    end_with_parent()
    program = sys.argv.pop(1)
    if program == "webserver":
        from assets.webserver import main as start
    elif program == "daemon":
        from dagster._daemon.cli import main as start
    else:
        from dagster._cli import main as start
        from dagster._grpc import server

        start_ours(server)  # one that keeps another, which it replaces when the code is loaded anew
    start()


if __name__ == "__main__":
    main()
