"""The programs of `prunescope ui`: `dagster dev`, and the web server, daemon and code servers that it starts.

They end with the process that started them, even if that is killed. Dagster's own would keep running and hold the port,
or for most of a minute the memory.
"""

import signal
import sys
from types import ModuleType

from prunescope.assets.execution.signals import end_with_parent

# By module that Dagster starts, the first argument of `main`.
_PROGRAMS = {"dagster_webserver": "webserver", "dagster._daemon": "daemon", "dagster": "code"}


def dev() -> None:
    """Run `dagster dev` with our programs instead of Dagster's, and with this process's arguments.

    A shell script starts what it puts into the background with SIGINT ignored. Dagster gives SIGTERM the action of
    SIGINT and stops its servers by SIGINT, so nothing but SIGKILL would end them.
    """
    # No public entry point, as in `main`; test_interface starts all programs through these.
    from dagster._cli import dev as theirs
    from dagster._grpc import server

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _start_ours(theirs)
    _start_ours(server)
    theirs.dev_command(args=sys.argv[1:], prog_name="dagster dev")


def main() -> None:
    """Run the program that the first argument names, with the other arguments."""
    end_with_parent()
    program = sys.argv.pop(1)
    if program == "webserver":
        from prunescope.assets.interface.webserver import main as start
    elif program == "daemon":
        from dagster._daemon.cli import main as start
    else:
        from dagster._cli import main as start
        from dagster._grpc import server

        _start_ours(server)  # a code server that starts another one and replaces it when the code is reloaded
    start()


def _start_ours(starter: ModuleType) -> None:
    """Make a module of Dagster's start our programs instead of its own."""
    start = starter.open_ipc_subprocess

    def started(command: list[str], **options: object) -> object:
        python, _, module, *arguments = command  # python -m MODULE ...
        return start([python, "-m", __spec__.name, _PROGRAMS[module], *arguments], **options)

    starter.open_ipc_subprocess = started


if __name__ == "__main__":
    main()
