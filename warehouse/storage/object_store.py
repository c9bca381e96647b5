"""Read-only file systems for DuckDB: a store's objects as they were first listed, and a folder's open files."""

import datetime
import io
import os
import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, BinaryIO, cast

from fsspec import AbstractFileSystem
from upath import UPath

from prunescope.warehouse.core.errors import READ_ONLY, REPLACED

# Keys under which stores give the version of an object, the most reliable first.
_VERSIONS = ("ETag", "etag", "created", "mtime")
# DuckDB asks for ranges of columns and would discard a larger block. A smaller object is read whole and cached, because
# DuckDB opens it again for each view that it binds.
_BLOCK = 1 << 20
_CACHED = 128


class PinnedObjects(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The objects below a location as first listed, read only; opening one that was replaced since raises OSError.

    Raises:
        OSError: the location cannot be listed. Other exceptions of `location.failures` are raised too.
    """

    cachable = False

    def __init__(self, root: UPath) -> None:
        super().__init__()
        self._store: Any = root.fs
        self.protocol = root.fs.protocol
        self._objects: dict[str, dict[str, Any]] = root.fs.find(root.path, detail=True)
        self._small = lru_cache(_CACHED)(self._read)

    def info(self, path: str, **_: object) -> dict[str, Any]:
        """Return size, type and version of an object; raise FileNotFoundError if it was not listed."""
        try:
            return self._objects[self._name(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def glob(self, path: str, **_: object) -> list[str]:
        """Return the object itself: views name whole files, and a bucket's prefix may contain wildcard characters."""
        return [self._name(path)] if self.exists(path) else []

    def modified(self, path: str) -> datetime.datetime:
        """Return the time at which the object was written."""
        time: datetime.datetime = self.info(path).get("LastModified") or self._store.modified(self._name(path))
        return time

    def _open(self, path: str, mode: str = "rb", **_: object) -> BinaryIO:
        if mode != "rb":
            raise PermissionError(READ_ONLY)
        return cast("BinaryIO", _SharedFile(self._opened(self._name(path), self.info(path)["size"])))

    def _opened(self, name: str, size: int) -> BinaryIO:
        return io.BytesIO(self._small(name)) if size <= _BLOCK else self._open_pinned(name)

    def _read(self, name: str) -> bytes:
        with self._open_pinned(name) as file:
            return file.read()

    def _open_pinned(self, name: str) -> BinaryIO:
        file: BinaryIO = self._store.open(name, "rb", block_size=_BLOCK)
        # The store's file keeps reading the version that it opened, so one comparison is enough.
        if _version(getattr(file, "details", None) or self._store.info(name)) != _version(self._objects[name]):
            file.close()
            raise OSError(f"{name} {REPLACED}")
        return file

    def _name(self, path: str) -> str:
        return str(self._store._strip_protocol(path))


class OpenFiles(PinnedObjects):
    """The open files of a folder, for a connection that may open no other file of the machine.

    It lives as long as the database with which it is registered. The connection object may die before its cursors,
    which would then use descriptor numbers that may belong to other files.
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
        return cast("BinaryIO", io.FileIO(name))

    def _name(self, path: str) -> str:
        return str(self._strip_protocol(path))


class _SharedFile(io.RawIOBase):
    """A file with a position of its own for each thread, closed when it is dropped.

    DuckDB reads one file from several threads. Each read first sets the position, and another thread may run in
    between.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._lock = file, threading.Lock()
        self._positions: dict[int, int] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._lock:
            if whence == os.SEEK_CUR:
                offset += self._positions.get(threading.get_ident(), 0)
            elif whence == os.SEEK_END:
                offset = self._file.seek(offset, os.SEEK_END)
            self._positions[threading.get_ident()] = offset
        return offset

    def tell(self) -> int:
        return self._positions.get(threading.get_ident(), 0)

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes from this thread's position on, or all that are left if `size` is negative."""
        with self._lock:
            position = self._positions.get(threading.get_ident(), 0)
            self._file.seek(position)
            content = self._file.read(size)
            self._positions[threading.get_ident()] = position + len(content)
        return content

    def close(self) -> None:
        self._file.close()
        super().close()


def _version(details: dict[str, Any]) -> tuple[int, object]:
    return details["size"], next((details[key] for key in _VERSIONS if key in details), None)
