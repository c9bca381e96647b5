"""The Dagster instance of a warehouse: its home, its databases, the writer lock, and recovery of killed runs."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from dagster import DagsterInstance, DagsterInvalidConfigError, DagsterRunStatus, RunsFilter

# Dagster has no public names for these, whose engines `databases_kept_open` replaces; test_databases fails if Dagster
# opens SQLite in another way.
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

# Raised for some errors in dagster.yaml; test_an_error_in_the_users_dagster_yaml fails if it is another one.
from dagster_shared.check import CheckError
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool
from yaml import YAMLError

from prunescope.assets.instance import settings
from prunescope.assets.instance.file_lock import locked
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.atomic_write import translate_os_errors

CONFIG = "dagster.yaml"
# Space for Dagster's databases and the tables of one small study.
MIN_FREE_BYTES = 32 << 20
# Timeout for the connection to a code server.
_CONNECT_SECONDS = 5.0
# Dagster's modules that create an engine for every connection to SQLite.
_STORAGES = (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage)
# On every run, since one DAGSTER_HOME can serve several warehouses.
WAREHOUSE_TAG = "prunescope/warehouse"
STUDY_TAG = "prunescope/study"
# Tag names that Dagster uses but does not export: who started a run, the code server of a launched one, and how often a
# lost process was replaced. Tests compare them with Dagster's.
USER_TAG = "user"
LAUNCHER_TAGS = (USER_TAG, "dagster/sensor_name", "dagster/schedule_name")
CODE_SERVER_TAG = ".dagster/grpc_info"
RETRY_TAG, MAX_RETRIES_TAG = "dagster/retry_number", "dagster/max_retries"
# PostgreSQL: timeout of a statement, and lifetime of a pooled connection.
_STATEMENT_TIMEOUT_MS = 60_000
_CONNECTION_SECONDS = 3600
# Between two attempts at the lock among machines.
_LOCK_RETRY_SECONDS = 1.0
# Dagster's message about a missing environment variable in its configuration.
_UNSET = re.compile(r'environment variable "([^"]+)" which is not set')
_IN_PROGRESS = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
UNFINISHED = [DagsterRunStatus.QUEUED, *_IN_PROGRESS]
# A process of the command line draws bars on its own standard error, which Dagster must not redirect. The class has no
# public name either.
_NO_CAPTURE = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}


def prepare_home(root: Path) -> Path:
    """Return DAGSTER_HOME: the user's, else `_dagster` inside the warehouse with a copy of our dagster.yaml.

    With our dagster.yaml Dagster's databases lie in a folder of this machine, so the run history of a warehouse on an
    object store is that of this machine; freshness is read from the partitions alone. With PostgreSQL in the user's
    dagster.yaml (`deploy/dagster.yaml`) all machines share one history. `root` is the warehouse's folder on this
    machine, see `Store.local`.

    Raises:
        WarehouseError: the folder cannot be written.
    """
    if chosen := os.environ.get("DAGSTER_HOME"):
        home = Path(chosen).expanduser().absolute()
        with translate_os_errors(home):
            home.mkdir(parents=True, exist_ok=True)
        return home
    home = root / "_dagster"
    # In a wheel the file is part of this package, in a checkout it is at the root.
    inside = Path(__file__).with_name(CONFIG)
    config = (inside if inside.exists() else Path(__file__).parents[2] / CONFIG).read_text(encoding="utf-8")
    with translate_os_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        copy = home / CONFIG
        if not copy.exists() or copy.read_text(encoding="utf-8") != config:
            copy.write_text(config, encoding="utf-8")
    return home


@contextmanager
def open_instance(root: Path) -> Iterator[DagsterInstance]:
    """Open the instance of a warehouse, for runs inside this process; `root` as in `prepare_home`.

    Raises:
        WarehouseError: its dagster.yaml is wrong, or its databases cannot be reached or written, for example because
            the disk is full.
    """
    home = prepare_home(root)
    with _translate_database_errors(home), databases_kept_open(), _instance(home) as instance:
        if _is_shared(instance.run_storage):
            # Otherwise Dagster connects for every event, and the password check of PostgreSQL is slow by design.
            instance.optimize_for_webserver(_STATEMENT_TIMEOUT_MS, _CONNECTION_SECONDS, max_overflow=20)
        yield instance


def plain_path(home: Path) -> Path:
    """Return a path of DAGSTER_HOME that Dagster can write into SQLite's URLs: DAGSTER_HOME or a link to it.

    A link is needed for a `?`, a `%` or bytes that are not UTF-8, because Dagster does not quote the path: what follows
    a `?` would be lost, and `%41` would be read as `A`.

    Raises:
        WarehouseError: the link cannot be written.
    """
    # Bytes that are not UTF-8 become surrogates in a path's text, which a URL cannot hold either.
    if not any(character in "?%" or "\ud800" <= character <= "\udfff" for character in str(home)):
        return home
    link = settings.cache_folder().absolute() / "homes" / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    with translate_os_errors(link), suppress(FileExistsError):  # its name is that of its target
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(home)
    return link


def _instance(home: Path) -> DagsterInstance:
    """Return the instance; raise WarehouseError with one line for a mistake in the user's dagster.yaml."""
    try:
        # Its folder and its databases stay: only the name of the method is about temporary ones.
        return DagsterInstance.local_temp(str(plain_path(home)), overrides=_NO_CAPTURE)
    except (DagsterInvalidConfigError, CheckError, YAMLError, ImportError) as error:
        message = str(error)
        if unset := sorted(set(_UNSET.findall(message))):
            reason = f"{', '.join(unset)} of the environment must be set"
        elif isinstance(error, DagsterInvalidConfigError):
            reason = "; ".join(part.partition(" Expected:")[0] for part in error.error_messages)
        else:
            reason = " ".join(message.removeprefix("Failure condition: ").split())
        raise WarehouseError(f"{home / CONFIG}: {reason}") from error


def _is_shared(storage: object) -> bool:
    """Return whether runs are stored in PostgreSQL, which several machines can share."""
    return hasattr(storage, "postgres_url")


@contextmanager
def _translate_database_errors(home: Path) -> Iterator[None]:
    """Raise WarehouseError with one line if a database of Dagster's does not answer or cannot be written."""
    try:
        yield
    except Exception as error:
        # After its attempts to connect Dagster raises an error class of a package that may not be installed.
        cause = error if isinstance(error, OperationalError) else error.__cause__
        if not isinstance(cause, OperationalError):
            raise
        reason = str(cause.orig).strip().partition("\n")[0]
        if isinstance(cause.orig, sqlite3.Error):
            fix = "make it writable" if "readonly" in reason else "free some space"
            message = f"{home}: {reason}; {fix} or choose another place with --warehouse"
        else:
            message = f"{home / CONFIG}: {reason}; start the database, or correct `storage` there"
        raise WarehouseError(message) from error


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    # Commits write to the log, which is synced only when it is copied into the file.
    connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def databases_kept_open() -> Iterator[None]:
    """Keep one engine per SQLite file and one of its connections open; Dagster would connect at every event.

    Without it, a run of 90 assets takes 3.4 s of processor time instead of 0.4 s, and 100 materializations with 400
    checks 4.2 s instead of 0.6 s (measured on two cores): statements are compiled again for every event, SQLite reads
    the schema again, and whenever the last connection to a file closes, it copies its write-ahead log into the file.
    Commits do not wait for the disk either: after a power failure the last events may be missing, but the files stay
    intact, and freshness is read from the Parquet files. These blocks may be nested, but not overlap.
    """
    engines, changing = dict[str, Engine](), Lock()  # Dagster connects from several threads

    def create(url: str, **options: Any) -> Engine:  # noqa: ANN401 - as Dagster calls it
        with changing:
            if url not in engines:
                # A thread that finds the connection in use opens another one, which is closed after use.
                pool = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": -1}
                engines[url] = create_engine(url, **options | pool)
                vars(engines[url])["dispose"] = lambda: None  # Dagster calls it after every event
                event.listen(engines[url], "connect", _set_up)
            return engines[url]

    before = _STORAGES[0].create_engine  # one for all of them
    try:
        for storage in _STORAGES:
            vars(storage)["create_engine"] = create
        yield
    finally:
        for storage in _STORAGES:
            vars(storage)["create_engine"] = before
        for engine in engines.values():
            engine.pool.dispose()


def require_space(root: Path) -> None:
    """Check for free space before anything is computed.

    Raises:
        WarehouseError: the disk is almost full.
    """
    if shutil.disk_usage(root).free < MIN_FREE_BYTES:
        raise WarehouseError(
            f"{root}: less than {MIN_FREE_BYTES >> 20} MiB are free; free some space or choose another --warehouse"
        )


# The locks that this process holds.
_LOCKS: set[Path] = set()


@contextmanager
def writer_lock(root: Path, log: Callable[[str], None], url: str | None = None) -> Iterator[None]:
    """Hold the writer lock of a warehouse; it is released when the process dies, and a process may take it repeatedly.

    In a folder, processes wait for each other, also those of other machines if a shared file system supports locks, as
    NFS 4 does. On an object store, machines wait for each other if DAGSTER_HOME has one PostgreSQL database for all of
    them. Otherwise only processes of one machine wait, and if two machines write the same partition, the last one
    replaces the whole file.

    `root` is as in `prepare_home`, `url` that of the warehouse, the same on all machines; None for a folder. `log`
    receives a message if another process holds the file's lock, and if another machine holds the database's.

    Raises:
        WarehouseError: the folder cannot be written, or the database cannot be reached.
    """
    path = _lock_file(root)
    if path in _LOCKS:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(locked(path, log))
        if url is not None:
            stack.enter_context(_machine_lock(prepare_home(root), url, log))
        _LOCKS.add(path)
        stack.callback(_LOCKS.discard, path)
        yield


def _lock_file(root: Path) -> Path:
    return root.resolve() / "_lock"


@contextmanager
def _machine_lock(home: Path, url: str, log: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock among the machines that share a PostgreSQL database; it is released if the connection is lost."""
    with ExitStack() as stack:
        with _translate_database_errors(home):
            runs = stack.enter_context(_instance(home)).run_storage
            if _is_shared(runs):
                connection = stack.enter_context(runs.connect())
                key = int.from_bytes(hashlib.sha256(f"prunescope {url}".encode()).digest()[:8], "big", signed=True)
                attempt = text("SELECT pg_try_advisory_lock(:key)").bindparams(key=key)
                has_lock = connection.execute(attempt).scalar()
                if not has_lock:
                    log("this warehouse is in use; waiting for another machine, by its lock in DAGSTER_HOME's database")
                while not has_lock:
                    time.sleep(_LOCK_RETRY_SECONDS)  # to wait inside the database would ignore Ctrl-C
                    has_lock = connection.execute(attempt).scalar()
        yield


def has_lost_two_processes(tags: Mapping[str, str]) -> bool:
    """Return whether the run with these tags replaces one that itself replaced another: both processes were lost."""
    return int(tags.get(RETRY_TAG, "0")) >= 2


def allow_retries(instance: DagsterInstance, run: str) -> None:
    """Set the retry limit of a finished command-line run back to the instance's default.

    Dagster copies the tags to a run that is re-executed from it.
    """
    instance.add_run_tags(run, {MAX_RETRIES_TAG: str(instance.run_retries_max_retries)})


def is_busy(root: Path) -> bool:
    """Return whether a process holds the writer lock; `root` as in `prepare_home`."""
    try:
        with (root / "_lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def recover(instance: DagsterInstance, warehouse: str, root: Path) -> None:
    """End the unfinished runs that are dead.

    A run of the command line holds the writer lock of its warehouse until it ends: if this process holds it, every
    other is dead. If the run history is stored in the warehouse, this also covers runs recorded before the warehouse
    was moved. A launched run is dead if its code server is gone, as after a crash of the machine. If several machines
    share one history, launched runs are left alone, because code servers of other machines cannot be reached from here.

    `warehouse` is written as in the runs' tags; `root` as in `prepare_home`.
    """
    is_shared = _is_shared(instance.run_storage)
    is_own = not is_shared and Path(instance.root_directory).resolve() == (root / "_dagster").resolve()
    for run in instance.get_runs(RunsFilter(statuses=_IN_PROGRESS)):
        server, tag = run.tags.get(CODE_SERVER_TAG), run.tags.get(WAREHOUSE_TAG)
        if server is not None:
            if not is_shared and not _is_listening(server):
                instance.report_run_failed(run, "The code server of this run is gone.")
        elif _lock_file(root) in _LOCKS and tag and (is_own or tag == warehouse):
            instance.report_run_failed(run, "The process was killed.")
            allow_retries(instance, run.run_id)


def _is_listening(server: str) -> bool:
    """Return whether the code server in a run's tag accepts connections."""
    address = json.loads(server)
    is_local = bool(address.get("socket"))
    with socket.socket(socket.AF_UNIX if is_local else socket.AF_INET) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(address["socket"] if is_local else (address["host"], address["port"]))
        except OSError:
            return False
    return True
