"""The `prunescope` command line."""

import os
import sys


def main() -> None:
    """Run the `prunescope` script."""
    arguments = sys.argv[1:]
    ahead = None
    is_query = {"sql", "question"} & {*arguments[:4]} and not {"--help", "-h"} & {*arguments}
    if is_query and "_PRUNESCOPE_COMPLETE" not in os.environ:
        # It starts while the command line is imported.
        from prunescope.warehouse.catalogue.sql_process import SqlProcess

        ahead = SqlProcess()
    try:
        from prunescope.assets.cli.application import main as run

        run(ahead)
    finally:
        if ahead is not None:
            ahead.close()


__all__ = ["main"]
