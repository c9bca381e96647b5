"""Where rows and messages go: data to standard output or a file, all else to standard error.

How rows become text is `prunescope.warehouse.core.formats`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.quoting import visible

if TYPE_CHECKING:
    import pyarrow as pa

STDERR = Console(stderr=True, highlight=False, soft_wrap=True)
# Names that promise something else than rows.
_PICTURES = {".html", ".htm", ".pdf", ".png", ".svg"}
_SUFFIXES = {
    "": "table",
    ".txt": "table",
    ".csv": "csv",
    ".json": "json",
    ".md": "markdown",
    ".tex": "latex",
    ".parquet": "parquet",
}
# A pipe or a file has no width of its own.
_WIDTH = 160


def log(message: str, style: str | None = None) -> None:
    """A message for the person at the terminal; what is invisible in it, of others' names or texts, is escaped."""
    STDERR.print(visible(message, keep="\n\t"), style=style, markup=False, emoji=False)


def put(line: str) -> None:
    """A line of data: as it is for a pipe, with what is invisible escaped for a terminal."""
    sys.stdout.write((visible(line, keep="\n") if sys.stdout.isatty() else line) + "\n")


def chosen_format(format_: str | None, output: Path | None) -> str:
    """The format asked for, else the one that the file's name says, else table.

    Raises:
        InputError: there is no such format, the file's name says none or another one, or Parquet would go to a
            terminal.
    """
    from prunescope.warehouse.core.formats import FORMATS

    suffix = output.suffix.lower() if output else ""
    if format_ is None and suffix not in _SUFFIXES:
        raise InputError(
            f"-o {output}: no format is called {suffix}; use {', '.join(filter(None, _SUFFIXES))}, or say --format"
        )
    chosen = format_ or _SUFFIXES[suffix]
    if chosen not in FORMATS:
        raise InputError(f"--format {chosen!r}: choose one of {', '.join(FORMATS)}")
    is_another = suffix in _PICTURES or _SUFFIXES.get(suffix, chosen) not in {chosen, "table"}
    if is_another or (chosen == "parquet" and suffix == ".txt"):
        raise InputError(f"-o {output} --format {chosen}: the name says another format; leave out one of the two")
    if chosen == "parquet" and output is None and sys.stdout.isatty():
        raise InputError("--format parquet: a terminal cannot show it; add -o FILE or a pipe")
    return chosen


def emit(rows: "pa.Table", format_: str | None = None, output: Path | None = None) -> None:
    """Writes rows.

    Raises:
        InputError: the format or the place is wrong; nothing was written.
    """
    from prunescope.warehouse.core.formats import render

    chosen = chosen_format(format_, output)
    width = Console().width if sys.stdout.isatty() and output is None else _WIDTH
    rendered = render(rows, chosen, width=width)
    content = rendered if isinstance(rendered, bytes) else rendered.encode()
    if output is not None:
        write_file(output, content)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file of the user's whole or not at all.

    Raises:
        InputError: the system refused.
    """
    from prunescope.warehouse.storage.atomic_write import write_atomically

    try:
        write_atomically(path.expanduser().absolute(), lambda temporary: _write(temporary, content))
    except WarehouseError as error:
        raise InputError(str(error).replace("--warehouse", "--output")) from error
    log(f"wrote {path}")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
