"""The `prunescope` command: data to standard output, everything else to standard error.

Arguments in, calls to the other rooms out; exit 0 done, 1 the work failed, 2 the input was wrong, 130 interrupted.
"""

from prunescope.assets.cli.main import main

__all__ = ["main"]
