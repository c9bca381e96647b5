"""Read-only file systems for DuckDB: the objects of a store as first listed, and the open files of a folder."""

import datetime
import io
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, BinaryIO, cast

from fsspec import AbstractFileSystem
from upath import UPath

from prunescope.warehouse.core.errors import READ_ONLY, REPLACED

# Keys under which stores give the version of an object, the most reliable first.
_VERSIONS = ("ETag", "etag", "created", "mtime")
# DuckDB asks for ranges of columns and would discard a larger block. A smaller object is read whole and cached, because
# each view that is bound opens it again.
_BLOCK = 1 << 20
_CACHED = 128


class PinnedObjects(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The objects below a location as first listed, read only; opening one that was replaced since raises OSError.

    Raises:
        OSError: it cannot be listed; also the other exceptions of `location.failures`.
    """

    cachable = False

    def __init__(self, root: UPath) -> None:
        super().__init__()
        self._store: Any = root.fs
        self.protocol = root.fs.protocol
        self._objects: dict[str, dict[str, Any]] = root.fs.find(root.path, detail=True)
        self._small = lru_cache(_CACHED)(self._read)

    def info(self, path: str, **_: object) -> dict[str, Any]:
        """Return size, type and version of an object; raise FileNotFoundError where it was not listed."""
        try:
            return self._objects[self._name(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def exists(self, path: str, **_: object) -> bool:
        """Return whether the object was listed."""
        return self._name(path) in self._objects

    def glob(self, path: str, **_: object) -> list[str]:
        """Return the object itself: the views name files, and a bucket's prefix may contain characters of patterns."""
        return [self._name(path)] if self.exists(path) else []

    def modified(self, path: str) -> datetime.datetime:
        """Return the time at which the object was written."""
        time: datetime.datetime = self.info(path).get("LastModified") or self._store.modified(self._name(path))
        return time

    def _open(self, path: str, mode: str = "rb", **_: object) -> BinaryIO:
        if mode != "rb":
            raise PermissionError(READ_ONLY)
        return self._opened(self._name(path), self.info(path)["size"])

    def _opened(self, name: str, size: int) -> BinaryIO:
        return io.BytesIO(self._small(name)) if size <= _BLOCK else self._open_pinned(name)

    def _read(self, name: str) -> bytes:
        with self._open_pinned(name) as file:
            return file.read()

    def _open_pinned(self, name: str) -> BinaryIO:
        file: BinaryIO = self._store.open(name, "rb", block_size=_BLOCK)
        # The store's file keeps to the version that it opened, so one comparison is enough.
        if _version(getattr(file, "details", None) or self._store.info(name)) != _version(self._objects[name]):
            file.close()
            raise OSError(f"{name} {REPLACED}")
        return file

    def _name(self, path: str) -> str:
        return str(self._store._strip_protocol(path))


class OpenFiles(PinnedObjects):
    """The open files of a folder, and no other file of the machine, for a connection that may open nothing else.

    It lives as long as the database with which it is registered. The connection object does not: its cursors outlive
    it, and would then use descriptor numbers that may name other files.
    """

    protocol = "warehouse"

    def __init__(self, sources: Iterable[str]) -> None:
        AbstractFileSystem.__init__(self)
        self._objects = {source: {} for source in sources}

    def info(self, path: str, **_: object) -> dict[str, Any]:
        """Return size, type and time of an open file; raise FileNotFoundError for every other one."""
        details = super().info(path)
        if not details:
            status = os.stat(self._name(path))  # noqa: PTH116 - Path takes as long as the rest
            written = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
            details |= {"name": path, "size": status.st_size, "type": "file", "LastModified": written}
        return details

    def _opened(self, name: str, _: int) -> BinaryIO:
        return cast("BinaryIO", _File(name))

    def _name(self, path: str) -> str:
        return str(self._strip_protocol(path))


class _File(io.FileIO):
    """A file that DuckDB drops without closing it."""

    def __del__(self) -> None:
        self.close()


def _version(details: dict[str, Any]) -> tuple[int, object]:
    return details["size"], next((details[key] for key in _VERSIONS if key in details), None)
