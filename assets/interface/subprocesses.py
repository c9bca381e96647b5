"""The programs of `prunescope ui`: web server, Dagster's daemon and code servers.

They end with the process that started them, even if that is killed. Dagster's own would keep running and hold the port,
or for most of a minute the memory.
"""

import sys

from prunescope.assets.execution.signals import end_with_parent
from prunescope.assets.interface.program_start import start_ours


def main() -> None:
    """Run the program that the first argument names, with the other arguments."""
    end_with_parent()
    program = sys.argv.pop(1)
    if program == "webserver":
        from prunescope.assets.interface.webserver import main as start
    elif program == "daemon":
        # No public entry point, as for the code server below; test_ui starts both.
        from dagster._daemon.cli import main as start
    else:
        from dagster._cli import main as start
        from dagster._grpc import server

        start_ours(server)  # a code server that starts another one and replaces it when the code is reloaded
    start()


if __name__ == "__main__":
    main()
