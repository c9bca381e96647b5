"""The `prunescope` command line."""

from prunescope.assets.cli.main import main

__all__ = ["main"]
