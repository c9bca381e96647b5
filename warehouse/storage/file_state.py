"""Whether files have changed, without opening them: size and time on a disk, what the listing says on a store.

For those who look at thousands of partitions every half minute.
"""

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prunescope.warehouse.storage.location import Place, failures
from prunescope.warehouse.storage.provenance import unreadable

if TYPE_CHECKING:
    from upath import UPath

Key = TypeVar("Key", bound=Hashable)


def stamps(root: Place, paths: Mapping[Key, Place]) -> dict[Key, tuple[Place, str]]:
    """Those of some files that there are, each with a text that is another one when the file is.

    Args:
        root: the warehouse.
        paths: files in its tables, by any key.

    Raises:
        WarehouseError: the store cannot be listed.
    """
    listed: dict[str, str] = {}
    if not isinstance(root, Path):
        for table in {path.parts[len(root.parts)] for path in paths.values()}:
            listed |= _of_folder(root / table)
    found = {}
    for key, path in paths.items():
        mark = _of_file(path) if isinstance(path, Path) else listed.get(path.path)
        if mark is not None:
            found[key] = (path, mark)
    return found


def _of_file(path: Path) -> str | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, thousands of times
    except OSError:
        return None
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _of_folder(folder: "UPath") -> dict[str, str]:
    folder.fs.invalidate_cache()
    try:
        found = folder.fs.find(folder.path, detail=True)
    except failures() as error:
        raise unreadable(folder, error) from error
    marks = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created", "size")
    return {name: " ".join(str(about.get(mark)) for mark in marks) for name, about in found.items()}
