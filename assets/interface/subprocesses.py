"""What `prunescope ui` starts, itself and through others: its web server, Dagster's daemon and the servers of its code.

They end with whoever started them, even by a kill. Dagster's own would stay behind and hold the port, or most of a
minute the memory.
"""

import sys

from prunescope.assets.execution.signals import end_with_parent
from prunescope.assets.interface.program_start import start_ours


def main() -> None:
    """The program that the first argument names, with the other arguments."""
    end_with_parent()
    program = sys.argv.pop(1)
    if program == "webserver":
        from prunescope.assets.interface.webserver import main as start
    elif program == "daemon":
        from dagster._daemon.cli import main as start
    else:
        from dagster._cli import main as start
        from dagster._grpc import server

        start_ours(server)  # one that keeps another, which it replaces when the code is loaded anew
    start()


if __name__ == "__main__":
    main()
