"""Prunescope: when does pruning a language model work, and why does it break generation?

The public functions; the command line is `prunescope.assets.cli`. In a checkout the four packages are the folders at
its root, to which links lead here, so that neither a wheel nor an editable install adds a package named `assets`,
`pipelines`, `sql` or `warehouse` to an environment.
"""

from pathlib import Path

_HERE = Path(__file__).parent
if (_HERE / "pipelines").is_symlink():
    # Modules of a checkout get the paths that its editor knows, not those of the links.
    __path__.insert(0, str(_HERE.resolve().parents[1]))

from prunescope.assets.api import arrow, dataset, figure, open, run, scan  # noqa: A004, E402 - read as `ps.open`

__all__ = ["arrow", "dataset", "figure", "open", "run", "scan"]
