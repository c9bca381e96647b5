"""A snapshot of all partitions for one connection; its open files stay readable after a writer replaces them."""

import os
import re
import warnings
import weakref
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from prunescope.warehouse.core.errors import (
    READ_ONLY,
    REPLACED,
    DamagedFileError,
    DamagedFileWarning,
    SqlError,
    WarehouseError,
)
from prunescope.warehouse.storage.file_checksum import ALTERED, is_footer_intact, is_intact
from prunescope.warehouse.storage.footer_probe import TAIL_BYTES, recognised
from prunescope.warehouse.storage.location import failures, open_regular
from prunescope.warehouse.storage.partition_store import PART, Partition, Store
from prunescope.warehouse.storage.provenance import (
    damaged,
    footer_of,
    read_footer,
    reading_explained,
    require_place,
    unreadable,
)
from prunescope.warehouse.tables import TABLES

# An open file keeps its name in this folder until it is closed, even if another file was renamed to its path.
_DESCRIPTORS = Path("/proc/self/fd")
# Prefix of the names that a locked connection opens; it reaches files only through `object_store.OpenFiles`.
LISTED = "warehouse://"
# Views of the catalogue with one row per file. SOURCES has the name that DuckDB opens and the partition's path; FOOTERS
# adds the footer.
SOURCES, FOOTERS = "files.sources", "files.provenance_files"
# Descriptors left for the rest of the process; DuckDB opens a file again in each thread that reads it.
_RESERVED = 200
# Concurrent requests for footers of an object store.
_REQUESTS = 16
_REMOVED = " (deleted)"
_FILE_IN_A_MESSAGE = re.compile(rf"{_DESCRIPTORS}/\d+|(?<=[\"'])/[^\"\n]*/{re.escape(PART)}(?=[\"'])")
_KIND = re.compile(r"[A-Z]\w+ (?:\w+ )*Error: ")


@dataclass(frozen=True)
class File:
    """One partition as a connection sees it.

    Attributes:
        source: name that DuckDB opens: of the open file, or the partition's path if files cannot be held open.
        version: version of its table; None if no version has its columns.
    """

    partition: Partition
    source: str
    version: int | None


class Snapshot:
    """The files of a warehouse at one moment.

    Once a connection holds them, it reads the same rows even if a partition is replaced or removed. If the system has
    no `/proc/self/fd`, or allows too few open files, files are read by their paths; a query that runs while its
    partition is replaced may then fail, or mix old and new rows. On an object store no file can be held: a query that
    opens a replaced object fails and says so; see `object_store.py`.

    Attributes:
        files: the usable partitions, table by table, in the order of their paths.
        is_held: whether the files are held open; otherwise they are opened by path when read.
    """

    def __init__(self, store: Store, models: Collection[str] | None = None, *, is_thorough: bool = False) -> None:
        """Open the partitions that exist now.

        `models` leaves out the partitions of other models, except for tables that no study writes. `is_thorough`
        compares every byte of large files with their seal, too; footers and small files are always compared.

        Warns:
            DamagedFileWarning: a partition is left out, because it cannot be read or belongs elsewhere.

        Raises:
            WarehouseError: the location is a file, or cannot be listed.
        """
        self.root = store.root
        if isinstance(self.root, Path) and self.root.exists() and not self.root.is_dir():
            raise WarehouseError(f"{self.root} is a file, not a warehouse; give the folder that contains the tables")
        self._descriptors: list[int] = []
        partitions = [
            partition
            for table in TABLES.values()
            for partition in store.partitions(table)
            if models is None or partition.model in models or not (partition.model and table.is_study_output)
        ]
        self._is_thorough, self._unusable = is_thorough, list[str]()
        self.is_held = isinstance(store.root, Path) and _DESCRIPTORS.is_dir() and _can_open(len(partitions))
        try:
            if isinstance(store.root, Path):
                files = [self._file(partition) for partition in partitions]
            else:
                with ThreadPoolExecutor(_REQUESTS) as pool:
                    files = list(pool.map(self._file, partitions))
            for reason in self._unusable:
                warnings.warn(reason, DamagedFileWarning, stacklevel=4)
        except BaseException:
            self.close()
            raise
        self.files = [file for file in files if file is not None]

    def serve(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read the files, until `close`.

        Raises:
            WarehouseError: the object store cannot be reached.
        """
        if not isinstance(self.root, Path):
            from prunescope.warehouse.storage.object_store import PinnedObjects

            try:
                connection.register_filesystem(PinnedObjects(self.root))
            except failures() as error:
                raise unreadable(self.root, error) from error

    def hold(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Hand the open files over to the connection; they are closed when its last cursor and relation are gone.

        Raises:
            WarehouseError: as `serve`.
        """
        self.serve(connection)
        if not isinstance(self.root, Path):
            return
        # Importing fsspec takes as long as a query.
        from prunescope.warehouse.storage.object_store import OpenFiles

        pins = OpenFiles(file.source for file in self.files)
        connection.register_filesystem(pins)
        # Not at exit: the system closes them at the end of the process, and other threads may read them until then.
        weakref.finalize(pins, _close, self._descriptors).atexit = False

    def close(self) -> None:
        """Close the files, unless a connection holds them."""
        _close(self._descriptors)

    def _file(self, partition: Partition) -> File | None:
        """Open the partition; return None if it was removed since it was listed, or cannot be used."""
        before = len(self._descriptors)
        try:
            return self._opened(partition)
        except FileNotFoundError:
            return None
        except WarehouseError as error:
            for descriptor in self._descriptors[before:]:
                os.close(descriptor)
            del self._descriptors[before:]
            self._unusable.append(str(error))
            return None

    def _opened(self, partition: Partition) -> File:
        path, table = partition.path, TABLES[partition.table]
        if not isinstance(path, Path):
            return File(partition, str(path), read_footer(path).version)
        with reading_explained(path):
            descriptor = open_regular(path)
            self._descriptors.append(descriptor)
            size = os.fstat(descriptor).st_size
            tail = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
            with open(descriptor, "rb", closefd=False) as file:
                if names := recognised(table, tail):
                    require_place(path, *names)
                    version: int | None = table.version
                else:
                    version = footer_of(file, path).version
                # With a wrong bit in a footer, DuckDB returns wrong rows, or an error without the file's name.
                is_read = self._is_thorough or size <= TAIL_BYTES
                if is_footer_intact(file) is False or (is_read and is_intact(file) is False):
                    raise damaged(path, ALTERED)
        if not self.is_held:
            os.close(self._descriptors.pop())
        return File(partition, str(_DESCRIPTORS / str(descriptor)) if self.is_held else str(path), version)


@contextmanager
def damage_explained(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Turn DuckDB's error about a file of the warehouse into an error that names the partition.

    The connection is from `database.connect`, and must still be open when a query fails.

    Raises:
        DamagedFileError: a file contradicts its footer, or no longer exists; the message names it.
        WarehouseError: an object of a store was replaced since the connection was opened.
        SqlError: the query would write a file, and the connection is locked.
    """
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except (duckdb.Error, pa.ArrowException, OSError) as error:  # rows read in batches fail with Arrow's errors
        message = str(error).strip().replace(LISTED, "")
        reason = message.rpartition("\n")[2]
        if REPLACED in message:
            raise WarehouseError(reason.partition(": ")[2]) from error
        # Our file systems implement nothing that only writers need.
        if reason == f"PermissionError: {READ_ONLY}" or reason.startswith("NotImplementedError"):
            raise SqlError(READ_ONLY) from error
        if reason.startswith("MemoryError"):  # Python's, in one of our file systems
            raise MemoryError from error
        for file in _FILE_IN_A_MESSAGE.finditer(message):
            if (path := _path_of(file[0])).name == PART:
                # DuckDB's reason follows the file's name.
                raise damaged(path, message[file.end() :].strip("\"': ") or message) from error
        if isinstance(error, OSError) or _KIND.match(message):
            raise
        # Errors without a kind come from DuckDB's Parquet reader, and do not name the file.
        if broken := _broken(connection):
            raise damaged(broken, message) from error
        raise DamagedFileError(f"a file that this reads is damaged ({message})") from error


def _broken(connection: duckdb.DuckDBPyConnection) -> Path | None:
    """Return the first file whose bytes contradict its seal; None if there is no such file."""
    query = f"SELECT source, path FROM {SOURCES} ORDER BY path"  # noqa: S608 - a name of ours
    for source, path in connection.execute(query).fetchall():
        if (opened := Path(source.removeprefix(LISTED))).is_file():
            with opened.open("rb") as file:
                if is_intact(file) is False:
                    return Path(path)
    return None


def _path_of(source: str) -> Path:
    if not source.startswith(f"{_DESCRIPTORS}/") or not Path(source).is_symlink():
        return Path(source)
    return Path(str(Path(source).readlink()).removesuffix(_REMOVED))


def _can_open(files: int) -> bool:
    """Return whether the process may open that many more files; increase its limit if needed and allowed."""
    import resource  # not on Windows, which has no /proc either

    needed = len(list(_DESCRIPTORS.iterdir())) + files + _RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return needed <= hard


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
