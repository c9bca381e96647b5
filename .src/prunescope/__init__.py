"""Prunescope: when does pruning a language model work, and why does it break generation?

The public functions; the command line is `prunescope.assets.cli`. In a checkout the four packages are the folders at
its root, to which links lead here, so that neither a wheel nor an editable install adds a package named `assets`,
`pipelines`, `sql` or `warehouse` to an environment.
"""

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
if (_ROOT / "assets" / "api.py").exists():
    # Modules of a checkout get the paths that an editor knows, not those of the links.
    __path__.insert(0, str(_ROOT))

from prunescope.assets.api import (  # noqa: E402
    arrow,
    dataset,
    figure,
    measure,
    open,  # noqa: A004 - read as `ps.open`
    question,
    run,
    scan,
    text,
    variant,
)

__all__ = ["arrow", "dataset", "figure", "measure", "open", "question", "run", "scan", "text", "variant"]
