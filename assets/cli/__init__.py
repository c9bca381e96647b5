"""The `prunescope` command line.

A function of this package that refuses input raises `InputError` or `WarehouseError` with a message for the user, which
`application.run` prints.
"""

import os
import sys


def main() -> None:
    """Run the `prunescope` script."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # The locale is not UTF-8, but names, prompts and reports are Unicode: start again in Python's UTF-8 mode.
        environment = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - no shell
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
