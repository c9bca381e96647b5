"""Where a warehouse lies: a local folder, or a prefix of an object store behind fsspec, as one type of path.

Credentials come from the environment (such as AWS_*) and stand in no path; how a file appears whole is `atomic.py`'s.
"""

import errno
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from prunescope.warehouse.core.errors import WarehouseError

# A warehouse in a folder needs no fsspec, which takes as long to import as a query.
if TYPE_CHECKING:
    from upath import UPath

    Place = Path | UPath
else:
    Place = Path
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+|.*::.*):(/+)(.*)", re.DOTALL)
# Where an upload appears whole when it ends, in the place of what was there, or not at all. On other remote file
# systems (sftp, smb, hdfs, webdav) a reader sees a growing file.
_TRIES = 10
Read = TypeVar("Read")
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")


def place_of(root: "Path | UPath | str") -> Place:
    """The place that a path or URL names; a local one as an absolute Path, `file://` too.

    Raises:
        WarehouseError: it is no place for a warehouse; the message says why. Nothing is contacted.
    """
    if not isinstance(root, str | Path):
        return root
    found = _URL.fullmatch(str(root))
    if found is None:
        return Path(root).absolute()
    scheme, slashes, rest = found.group(1).lower(), found.group(2), found.group(3)
    if scheme == "file":
        return Path(f"/{rest}").absolute()
    user, at, _ = rest.partition("/")[0].rpartition("@")
    # On Azure what stands in front of an @ is the container.
    if at and (":" in user or scheme not in {"az", "abfs", "abfss"}):
        raise WarehouseError(
            f"the warehouse {scheme}://… has credentials in its address; leave them out and set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or what the store's library reads from the environment"
        )
    if len(slashes) < 2:
        raise WarehouseError(f"the warehouse {root} is a URL with one slash; write {scheme}://{rest}")
    if scheme not in _WHOLE:
        raise WarehouseError(
            f"the warehouse {scheme}://… cannot be kept safely: files appear there in parts or cannot be written; "
            f"use a local folder, a mounted one, or one of {', '.join(f'{name}://' for name in _WHOLE)}"
        )
    if not rest.strip("/"):
        raise WarehouseError(f"the warehouse {scheme}:// names no bucket; write {scheme}://BUCKET/PREFIX")
    from upath import UPath

    try:
        # What another machine has written a moment ago must be seen, so nothing is listed from memory.
        place = UPath(f"{scheme}://{rest.rstrip('/')}", use_listings_cache=False)
        _ = place.fs
    except ImportError as error:
        library = str(error).partition("\n")[0]
        raise WarehouseError(
            f"the warehouse {root} needs a library: {library} (pip install 'prunescope[s3]')"
        ) from error
    return place


def is_local(place: Place) -> bool:
    """Whether the place is a folder or file of this machine, which the system's own calls reach."""
    return isinstance(place, Path)


def failures() -> tuple[type[Exception], ...]:
    """What an access to any place may raise: the system's errors, and those of the S3 client once it is in use."""
    botocore: Any = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, botocore.BotoCoreError)


def read_from(place: Place, read: Callable[[BinaryIO], Read]) -> Read:
    """What `read` makes of a file in one state; an object that is replaced meanwhile is read again from the start.

    Raises:
        OSError: it cannot be read, or what `failures` names.
    """
    for _ in range(_TRIES - 1):
        try:
            with place.open("rb") as file:
                return read(file)
        except OSError as error:
            # How a store's file says that its object is no longer the one that was opened.
            if is_local(place) or error.errno != errno.EBUSY:
                raise
    with place.open("rb") as file:
        return read(file)


def fetch(place: Place, to: Path) -> None:
    """Copies a file of any place to a local one, whole; the caller chooses a temporary name.

    Raises:
        OSError: either side refused, or what `failures` names.
    """
    if isinstance(place, Path):
        to.write_bytes(place.read_bytes())
    else:
        place.fs.get_file(place.path, str(to))


def upload(file: Path, place: "UPath") -> None:
    """Puts a local file in the place of an object in one step: a reader sees the old one or the new one.

    Raises:
        OSError: the store refused, or what `failures` names.
    """
    place.fs.put_file(str(file), place.path)
