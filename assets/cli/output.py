"""Output of the commands: data to standard output or a file, messages to standard error; and the exit codes."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.escapes import escape_control
from prunescope.warehouse.core.errors import WarehouseError

if TYPE_CHECKING:
    import pyarrow as pa

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
STDERR = Console(stderr=True, highlight=False, soft_wrap=True)
_SUFFIXES = {
    "": "table",
    ".txt": "table",
    ".csv": "csv",
    ".json": "json",
    ".md": "markdown",
    ".tex": "latex",
    ".parquet": "parquet",
}
# As in `warehouse.core.formats`, which takes as long to import as a query.
Format = Literal["table", "csv", "json", "markdown", "latex", "parquet"]
# Width of a table in a pipe or a file.
_WIDTH = 160


def log(message: str, style: str | None = None) -> None:
    """Print a message to standard error, with invisible characters escaped: it may quote names from elsewhere."""
    STDERR.print(escape_control(message, keep="\n\t"), style=style, markup=False, emoji=False)


def put(line: str) -> None:
    """Print a line of data to standard output; on a terminal, escape its invisible characters."""
    sys.stdout.write((escape_control(line, keep="\n") if sys.stdout.isatty() else line) + "\n")


@dataclass(frozen=True)
class Sink:
    """The format of a command's rows, and the file that they go to, or None for standard output.

    Attributes:
        is_chosen: whether the user chose either of them; then a list without a row is written, too.
    """

    format: str = "table"
    path: Path | None = None
    is_chosen: bool = False

    @property
    def width(self) -> int:
        """Characters of a line: the terminal's, or what suits a pipe or file."""
        return Console().width if sys.stdout.isatty() and self.path is None else _WIDTH


def chosen_sink(format_: str | None, path: Path | None) -> Sink:
    """Return the sink of `--format`, else that of the file's suffix, else a table on standard output."""
    suffix = path.suffix.lower() if path else ""
    if format_ is None and suffix not in _SUFFIXES:
        raise InputError(
            f"-o {path}: no format is called {suffix}; use {', '.join(filter(None, _SUFFIXES))}, or add --format"
        )
    chosen = format_ or _SUFFIXES[suffix]
    if chosen == "parquet" and path is None and sys.stdout.isatty():
        raise InputError("--format parquet: a terminal cannot show it; add -o FILE or a pipe")
    return Sink(chosen, path, is_chosen=(format_, path) != (None, None))


def emit(rows: "pa.Table", sink: Sink = Sink()) -> None:
    """Write rows to a sink."""
    from prunescope.warehouse.core.formats import render

    rendered = render(rows, sink.format, width=sink.width)
    emit_bytes(rendered if isinstance(rendered, bytes) else rendered.encode(), sink.path)


def emit_list(rows: Sequence[Mapping[str, object]], sink: Sink, /, **columns: type) -> None:
    """Write rows with these columns of `str` or `int`; an empty list only if the user chose a format or file."""
    if not rows and not sink.is_chosen:
        return
    import pyarrow as pa

    types = {name: pa.string() if of is str else pa.int64() for name, of in columns.items()}
    emit(pa.Table.from_pylist(rows, pa.schema(types)), sink)


def emit_bytes(content: bytes | bytearray, output: Path | None) -> None:
    """Write data to standard output or to a file; on a terminal, escape its invisible characters."""
    if output is not None:
        write_file(output, content)
    elif sys.stdout.isatty():
        put(content.decode().removesuffix("\n"))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def write_file(path: Path, content: bytes | bytearray) -> None:
    """Write a file of the user's atomically; a link is followed, and a device or pipe is written to."""
    from prunescope.warehouse.storage.atomic_write import translate_os_errors, write_atomically

    target = path.expanduser().resolve()
    try:
        if target.exists() and not target.is_file():
            with translate_os_errors(target):
                target.write_bytes(content)
        else:
            write_atomically(target, lambda temporary: temporary.write_bytes(content))
    except WarehouseError as error:
        raise InputError(str(error).replace("--warehouse", "--output")) from error
    log(f"wrote {path}")
