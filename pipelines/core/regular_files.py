"""Opening of files from elsewhere: regular ones only, of bounded size. No torch here.

A FIFO blocks the process that opens it, and a device such as /dev/zero never ends.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from prunescope.pipelines.core.errors import InputError

# Limits of Linux, the widest among common systems.
_MAX_PATH, _MAX_NAME = 4095, 255


def path_problem(name: str) -> str | None:
    """Return why no file can have such a path, on any system; None if one can."""
    if "\0" in name:
        return "holds a null character"
    if len(os.fsencode(name)) > _MAX_PATH or any(len(os.fsencode(part)) > _MAX_NAME for part in Path(name).parts):
        return f"longer than a path can be ({_MAX_PATH:,} bytes, and {_MAX_NAME} for each name in it)"
    try:
        Path(name).expanduser()
    except RuntimeError:
        return f"there is no user {Path(name).parts[0]}"
    return None


def local_path(name: str, what: str) -> Path:
    """Return the path that a text names, with `~` expanded; `what` names its use in messages.

    Raises:
        InputError: no file can have such a path.
    """
    if (problem := path_problem(name)) is not None:
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        raise InputError(f"{what} {shown!r}: {problem}; give the path of a file")
    return Path(name).expanduser()


@contextmanager
def readable(where: str, fix: str) -> Iterator[None]:
    """Turn an OSError about a file into an InputError, which names the file and the fix."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}; {fix}") from error


def require_regular(path: Path, limit: int | None = None, what: str = "this kind of file") -> int:
    """Return the size of a regular file, or of the one that a link leads to, without opening it.

    The limit is in bytes; `what` names in messages the kind of file that it is for.

    Raises:
        InputError: it is a device, FIFO or socket, or larger than the limit.
        OSError: it does not exist, or its path is not valid.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise InputError(f"{path}: is a device, FIFO or socket, or a link to one; only regular files are read")
    if limit is not None and status.st_size > limit:
        raise InputError(f"{path}: {status.st_size:,} bytes, over the {limit:,} that {what} may have")
    return status.st_size


def open_regular(path: Path, limit: int | None = None, what: str = "this kind of file") -> BufferedReader:
    """Open a regular file for reading; arguments and errors as in `require_regular`, and OSError for a folder."""
    require_regular(path, limit, what)
    return path.open("rb")


def read_regular(path: Path, limit: int, what: str = "this kind of file") -> str:
    """Return the text of a regular UTF-8 file of at most `limit` bytes, without a byte order mark.

    Raises:
        InputError: it is not UTF-8, or as in `require_regular`; names the line.
        OSError: as in `require_regular`.
    """
    with open_regular(path, limit, what) as stream:
        content = stream.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text; save it as UTF-8") from error
