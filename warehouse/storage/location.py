"""Location of a warehouse: a local folder or a prefix of an object store behind fsspec, as one type of path.

Credentials come from the environment (such as AWS_*) and are never part of a path.
"""

import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from prunescope.warehouse.core.errors import WarehouseError

# A local folder needs no fsspec, whose import takes as long as a query.
if TYPE_CHECKING:
    from upath import UPath

    Place = Path | UPath
else:
    Place = Path
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+|.*::.*):/+(.*)", re.DOTALL)
_TRIES = 10
Read = TypeVar("Read")
# Stores on which an upload replaces the object when it is complete, and otherwise changes nothing. On other remote file
# systems (sftp, smb, hdfs, webdav) a reader sees a growing file.
_ATOMIC = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")


def place_of(root: "Path | UPath | str") -> Place:
    """Return the location that a path or URL names: for a local one or `file://`, an absolute Path. Contact nothing.

    Raises:
        WarehouseError: a warehouse cannot be there; the message says why.
    """
    if not isinstance(root, str | Path):
        return root
    url = _URL.fullmatch(str(root))
    if url is None:
        return Path(root).absolute()
    scheme, path = url[1].lower(), url[2]
    if scheme == "file":
        return Path(f"/{path}").absolute()
    user, at, _ = path.partition("/")[0].rpartition("@")
    # On Azure the part before an @ is the container.
    if at and (":" in user or scheme not in {"az", "abfs", "abfss"}):
        raise WarehouseError(
            f"the warehouse {scheme}://… has credentials in its address; leave them out and set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or what the store's library reads from the environment"
        )
    if scheme not in _ATOMIC:
        raise WarehouseError(
            f"the warehouse {scheme}://… cannot be kept safely: files appear there in parts or cannot be written; "
            f"use a local folder, a mounted one, or one of {', '.join(f'{name}://' for name in _ATOMIC)}"
        )
    if not path.strip("/"):
        raise WarehouseError(f"the warehouse {scheme}:// names no bucket; write {scheme}://BUCKET/PREFIX")
    from upath import UPath

    try:
        # Without the cache of listings, files that another machine has just written are visible.
        place = UPath(f"{scheme}://{path.rstrip('/')}", use_listings_cache=False)
        _ = place.fs
    except ImportError as error:
        library = str(error).partition("\n")[0]
        raise WarehouseError(
            f"the warehouse {root} needs a library: {library} (pip install 'prunescope[s3]')"
        ) from error
    return place


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that access to a location may raise: the system's, and those of an imported S3 client."""
    botocore: Any = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, botocore.BotoCoreError)


def open_regular(path: Path) -> int:
    """Open a file of the warehouse and return its descriptor, without following links or waiting for a FIFO's writer.

    Raises:
        OSError: the file cannot be opened. For a link, FIFO or device the error has no `errno`, like Arrow's errors
            about damaged bytes.
    """
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError("it is a symbolic link" if stat.S_ISLNK(mode) else "it is not a regular file")
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # it may have been replaced since


def read_from(place: Place, read: Callable[[BinaryIO], Read]) -> Read:
    """Return what `read` returns for a file; an object that is replaced while it is read is read again.

    Raises:
        OSError: the file cannot be read, or is local and not a regular file. Other exceptions of `failures` are raised
            too.
    """
    if isinstance(place, Path):
        with open(open_regular(place), "rb") as file:
            return read(file)
    for _ in range(_TRIES - 1):
        try:
            with place.open("rb") as file:
                return read(file)
        except OSError as error:
            # A store's file raises EBUSY when its object was replaced after it was opened.
            if error.errno != errno.EBUSY:
                raise
    with place.open("rb") as file:
        return read(file)
