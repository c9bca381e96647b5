"""The objects of a store for DuckDB, read only and each in the state that it had when a connection was opened.

No SQL here; local files are pinned by `snapshots.py`, and writing is `atomic.py`'s.
"""

import datetime
import io
from functools import lru_cache
from typing import Any, BinaryIO

import duckdb
from fsspec import AbstractFileSystem
from upath import UPath

from prunescope.warehouse.storage.location import failures
from prunescope.warehouse.storage.provenance import unreadable

# What is said of an object that is not the one that was listed.
REPLACED = "was replaced after this connection was opened; open the warehouse again"
# What stores call the version of an object, the surest first.
_VERSIONS = ("ETag", "etag", "created", "mtime")
# DuckDB asks for ranges of columns; more around them would be thrown away. Smaller objects are read at once and kept,
# for each view that is bound opens them again.
_BLOCK = 1 << 20
_KEPT = 128


class PinnedObjects(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The objects below a place as they were listed once; one that was replaced since is refused, never mixed.

    Args:
        root: the place.

    Raises:
        OSError: it cannot be listed, or what `places.failures` names.
    """

    cachable = False

    def __init__(self, root: UPath) -> None:
        super().__init__()
        self._store: Any = root.fs
        self.protocol = root.fs.protocol
        self._objects: dict[str, dict[str, Any]] = root.fs.find(root.path, detail=True)
        self._small = lru_cache(_KEPT)(self._read)

    def info(self, path: str, **_: object) -> dict[str, Any]:
        """Size, type and version of an object; FileNotFoundError where it was not listed."""
        try:
            return self._objects[self._name(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def exists(self, path: str, **_: object) -> bool:
        """Whether the object was listed."""
        return self._name(path) in self._objects

    def glob(self, path: str, **_: object) -> list[str]:
        """The object itself: the views name files, and a bucket's prefix may hold characters of patterns."""
        return [self._name(path)] if self.exists(path) else []

    def modified(self, path: str) -> datetime.datetime:
        """When the object was written."""
        found: datetime.datetime = self.info(path).get("LastModified") or self._store.modified(self._name(path))
        return found

    def _open(self, path: str, mode: str = "rb", **_: object) -> BinaryIO:
        if mode != "rb":
            raise PermissionError(f"{path}: the warehouse is read only here")
        name, listed = self._name(path), self.info(path)
        return io.BytesIO(self._small(name)) if listed["size"] <= _BLOCK else self._open_pinned(name)

    def _read(self, name: str) -> bytes:
        with self._open_pinned(name) as file:
            return file.read()

    def _open_pinned(self, name: str) -> BinaryIO:
        file: BinaryIO = self._store.open(name, "rb", block_size=_BLOCK)
        # The store's own file holds on to the version that it found, so one look at opening is enough.
        if _version(getattr(file, "details", None) or self._store.info(name)) != _version(self._objects[name]):
            file.close()
            raise OSError(f"{name} {REPLACED}")
        return file

    def _name(self, path: str) -> str:
        return str(self._store._strip_protocol(path))


def register(connection: duckdb.DuckDBPyConnection, root: UPath) -> None:
    """Lets a connection read the objects below a place by their URLs.

    Raises:
        WarehouseError: the store cannot be reached.
    """
    try:
        connection.register_filesystem(PinnedObjects(root))
    except failures() as error:
        raise unreadable(root, error) from error


def _version(details: dict[str, Any]) -> tuple[int, object]:
    return details["size"], next((details[key] for key in _VERSIONS if key in details), None)
