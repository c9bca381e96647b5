"""One state of every partition for one connection: it holds its files open, whatever writers put in their place.

What the files mean is the catalogue's business; no row is read here.
"""

import os
import re
import weakref
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from prunescope.warehouse.core.errors import DamagedFileError, WarehouseError
from prunescope.warehouse.schema.migrations import version_of
from prunescope.warehouse.storage.file_checksum import is_intact
from prunescope.warehouse.storage.footer_probe import TAIL_BYTES, is_recognised
from prunescope.warehouse.storage.location import is_local
from prunescope.warehouse.storage.object_store import REPLACED, register
from prunescope.warehouse.storage.partition_store import PART, Partition, Store
from prunescope.warehouse.storage.provenance import damaged, read_footer, unreadable
from prunescope.warehouse.tables import TABLES

# An open file keeps its name here as long as it is open, also after another file was renamed to its place.
_DESCRIPTORS = Path("/proc/self/fd")
# The catalogue's view with one row per file: what DuckDB opens, the partition's path, and its footer.
FOOTERS = "files.provenance_files"
# What the rest of the process may still open; DuckDB opens a file once more a thread while it reads it.
_SPARE = 200
# What a query says first that reads a partition which cannot be used; the message about it follows.
UNUSABLE = "a file that this reads cannot be used: "
# Footers of an object store that are asked for at once.
_REQUESTS = 16
_REMOVED = " (deleted)"
_FILE_IN_A_MESSAGE = re.compile(rf"{_DESCRIPTORS}/\d+|(?<=[\"'])/[^\"\n]*/{re.escape(PART)}(?=[\"'])")
_KIND = re.compile(r"(?:[A-Z]\w+ )+Error: ")


@dataclass(frozen=True)
class File:
    """One partition as a connection sees it.

    Attributes:
        partition: which one.
        source: what DuckDB opens: the open file, or the partition's path where files cannot be held open.
        version: the version of its table that it was written by; None where its columns are those of no version.
    """

    partition: Partition
    source: str
    version: int | None


@dataclass(frozen=True)
class Unusable:
    """One partition that cannot be read.

    Attributes:
        partition: which one; its names are empty where only its footer could tell them.
        reason: the message about it.
    """

    partition: Partition
    reason: str


class Snapshot:
    """The files of a warehouse at one moment.

    Once a connection holds them, replacing or removing a partition changes nothing that the connection reads. Where
    the system has no `/proc/self/fd`, or allows too few open files, they are read by their paths; a query that runs
    while its partition is replaced may then fail, or mix old and new rows. On an object store nothing can be held: a
    query fails that opens an object which was replaced, and says so; see `remote.py`.

    Attributes:
        root: the warehouse.
        files: its partitions, table by table, in the order of their paths.
        unusable: those whose footer is damaged or that the system does not let us read.
        is_held: whether the files are held open, instead of opened by their paths when they are read.
    """

    def __init__(self, store: Store, models: Collection[str] | None = None) -> None:
        """Opens the partitions that exist now.

        Args:
            store: the warehouse.
            models: only the partitions of these models, and what is of no study; all where None.

        Raises:
            WarehouseError: the place is a file, or cannot be listed.
        """
        self.root = store.root
        if isinstance(self.root, Path) and self.root.exists() and not self.root.is_dir():
            raise WarehouseError(f"{self.root} is a file and no warehouse; give the folder that the tables lie in")
        self._descriptors: list[int] = []
        partitions = [
            partition
            for table in TABLES.values()
            for partition in store.partitions(table)
            if models is None or partition.model in models or not (partition.model and table.is_study_output)
        ]
        self.unusable: list[Unusable] = []
        self.is_held = is_local(store.root) and _DESCRIPTORS.is_dir() and _has_room(len(partitions))
        try:
            if is_local(store.root):
                found = [self._file(partition) for partition in partitions]
            else:
                # Each is a request, of which nearly all time is waiting.
                with ThreadPoolExecutor(_REQUESTS) as pool:
                    found = list(pool.map(self._file, partitions))
        except BaseException:
            self.close()
            raise
        self.files = [file for file in found if file is not None]

    def serve(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Lets a connection read the files, until `close`.

        Raises:
            WarehouseError: the object store cannot be reached.
        """
        if not isinstance(self.root, Path):
            register(connection, self.root)

    def hold(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Leaves the open files to the connection: they are closed when its last cursor and relation is gone.

        Raises:
            WarehouseError: as `serve`.
        """
        self.serve(connection)
        if not self._descriptors:
            return
        from prunescope.warehouse.storage.open_files import OpenFiles

        pins = OpenFiles()
        connection.register_filesystem(pins)
        # When the process ends the system closes them, and nothing that still runs loses its files before.
        weakref.finalize(pins, _close, self._descriptors).atexit = False

    def close(self) -> None:
        """Closes the files, where no connection holds them."""
        _close(self._descriptors)

    def _file(self, partition: Partition) -> File | None:
        """The partition, opened; None where it was removed since it was listed, or cannot be used."""
        held = len(self._descriptors)
        try:
            return self._opened(partition)
        except WarehouseError as error:
            for descriptor in self._descriptors[held:]:
                os.close(descriptor)
            del self._descriptors[held:]
            self.unusable.append(Unusable(partition, str(error)))
            return None

    def _opened(self, partition: Partition) -> File | None:
        path = partition.path
        if not isinstance(path, Path):
            return _remote_file(partition)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        source = str(_DESCRIPTORS / str(descriptor)) if self.is_held else str(path)
        self._descriptors.append(descriptor)
        try:
            size = os.fstat(descriptor).st_size
            tail = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
        except OSError as error:
            raise unreadable(path, error) from error
        table = TABLES[partition.table]
        version = table.version if is_recognised(table, tail) else version_of(table, _schema(source))
        if not self.is_held:
            os.close(self._descriptors.pop())
        return File(partition, source, version)


def _remote_file(partition: Partition) -> File | None:
    try:
        footer = read_footer(partition.path)
    except FileNotFoundError:
        return None
    return File(partition, str(partition.path), version_of(TABLES[partition.table], footer.schema))


@contextmanager
def damage_explained(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Turns DuckDB's error about a file of the warehouse into one that names the partition.

    Args:
        connection: what the queries run on, from `catalogue.connect`; it must still be open where they fail.

    Raises:
        DamagedFileError: a file does not hold what its footer says, or is no longer there; the message names it.
        WarehouseError: an object of a store was replaced since the connection was opened.
    """
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except (duckdb.Error, pa.ArrowException, OSError) as error:  # rows that come in batches fail as Arrow's errors
        message = str(error)
        if UNUSABLE in message:
            raise DamagedFileError(message.strip().splitlines()[-1].partition(UNUSABLE)[2]) from error
        if REPLACED in message:
            raise WarehouseError(message.strip().splitlines()[-1].partition(": ")[2]) from error
        for found in _FILE_IN_A_MESSAGE.finditer(message):
            if (path := _path_of(found[0])).name == PART:
                # What DuckDB says about a file stands behind its name.
                raise damaged(path, message[found.end() :].strip("\"': ") or message) from error
        if isinstance(error, OSError) or _KIND.match(message):
            raise
        # Only what DuckDB's Parquet reader stumbles over has no kind, and then it does not say where.
        if broken := _broken(connection):
            raise damaged(broken, message) from error
        raise DamagedFileError(f"a file that this reads is damaged ({message})") from error


def _broken(connection: duckdb.DuckDBPyConnection) -> Path | None:
    """The first file whose bytes are not as they were sealed; None where that can be said of none."""
    query = f"SELECT source, path FROM {FOOTERS} ORDER BY path"  # noqa: S608 - a name of ours
    for source, path in connection.execute(query).fetchall():
        if Path(source).is_file():
            with Path(source).open("rb") as file:
                if is_intact(file) is False:
                    return Path(path)
    return None


def _schema(source: str) -> pa.Schema:
    try:
        return read_footer(Path(source)).schema
    except WarehouseError as error:
        raise type(error)(str(error).replace(source, str(_path_of(source)))) from error


def _path_of(source: str) -> Path:
    """The partition's path, from what DuckDB opens."""
    if not source.startswith(f"{_DESCRIPTORS}/") or not Path(source).is_symlink():
        return Path(source)
    return Path(str(Path(source).readlink()).removesuffix(_REMOVED))


def _has_room(files: int) -> bool:
    """Whether so many more files may be open, after raising this process's own limit as far as it may."""
    import resource  # not on Windows, which has no /proc either

    needed = len(list(_DESCRIPTORS.iterdir())) + files + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return needed <= hard


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
