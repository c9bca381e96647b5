"""What `prunescope ui` starts beside itself, its web server and Dagster's daemon: they end with it, even by a kill.

Dagster's own would stay behind and hold the port.
"""

import sys

from assets.interrupts import end_with_parent


def main() -> None:
    """The program that the first argument names, with the other arguments."""
    end_with_parent()
    if sys.argv.pop(1) == "daemon":
        from dagster._daemon.cli import main as start
    else:
        from assets.webserver import main as start
    start()


if __name__ == "__main__":
    main()
