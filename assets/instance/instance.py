"""The Dagster instance of a warehouse: where it lives, how it is opened, and how it recovers from killed runs.

Nothing here knows what is computed.
"""

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
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

from dagster import DagsterInstance, DagsterInvalidConfigError, DagsterRunStatus, RunsFilter
from dagster._check import CheckError
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.storage.tags import GRPC_INFO_TAG
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool, Pool
from yaml import YAMLError

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.atomic_write import translate_os_errors

CONFIG = "dagster.yaml"
# Room for Dagster's databases and the tables of one small study.
LEAST_SPACE = 32 << 20
# How long a code server may take to accept a connection.
_SERVER_SECONDS = 5.0
# Dagster's modules that make an engine for every connection to SQLite.
_STORAGES = (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage)
# Databases that are held open.
_MOST_KEPT = 16
# Runs carry it, so that one DAGSTER_HOME can serve several warehouses.
WAREHOUSE_TAG = "prunescope/warehouse"
STUDY_TAG = "prunescope/study"
# Of a statement in PostgreSQL, and of a connection to it that is kept for the next one.
_PATIENCE_MS = 60_000
_RECYCLED_SECONDS = 3600
# How often the next machine in line asks again.
_ASKED_AGAIN_SECONDS = 1.0
# How Dagster names a variable of the environment that its configuration asks for.
_UNSET = re.compile(r'environment variable "([^"]+)" which is not set')
_UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
UNFINISHED = [DagsterRunStatus.QUEUED, *_UNFINISHED]
# A process of the command line draws bars on its own standard error, which Dagster must not redirect.
_NO_CAPTURE = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}


def prepare_home(root: Path) -> Path:
    """DAGSTER_HOME: the user's, else `_dagster` inside the warehouse with a copy of our dagster.yaml.

    Our dagster.yaml keeps Dagster's databases in a folder of this machine. The history of a warehouse on an object
    store is then that of this machine; what is current is told by the partitions alone. With PostgreSQL in the user's
    dagster.yaml (`deploy/dagster.yaml`) all machines have one history.

    Args:
        root: the warehouse's folder on this machine, see `Store.local`.

    Raises:
        WarehouseError: the folder cannot be written.
    """
    if chosen := os.environ.get("DAGSTER_HOME"):
        home = Path(chosen).expanduser().absolute()
        with translate_os_errors(home):
            home.mkdir(parents=True, exist_ok=True)
    else:
        home = root / "_dagster"
        config = _packaged_config().read_text(encoding="utf-8")
        with translate_os_errors(home):
            home.mkdir(parents=True, exist_ok=True)
            copy = home / CONFIG
            if not copy.exists() or copy.read_text(encoding="utf-8") != config:
                copy.write_text(config, encoding="utf-8")
    return home


def _packaged_config() -> Path:
    """In a wheel the file lies in this package, in a checkout at the root."""
    inside = Path(__file__).with_name(CONFIG)
    return inside if inside.exists() else Path(__file__).parents[2] / CONFIG


@contextmanager
def opened(root: Path) -> Iterator[DagsterInstance]:
    """The instance of a warehouse, for runs inside this process; `root` as in `prepare_home`.

    Raises:
        WarehouseError: its dagster.yaml is wrong, or its databases cannot be reached or written, above all because the
            disk is full.
    """
    home = prepare_home(root)
    with _outages_told(home), databases_kept_open():
        with _mistakes_told(home):
            instance = DagsterInstance.from_ref(_ref(home))
        with instance:
            if _is_shared(instance.run_storage):
                # Dagster connects anew for every event otherwise; a password is checked slowly, and on purpose.
                instance.optimize_for_webserver(_PATIENCE_MS, _RECYCLED_SECONDS, max_overflow=20)
            yield instance


def _ref(home: Path) -> InstanceRef:
    return InstanceRef.from_dir(str(home), overrides=_NO_CAPTURE)


def _is_shared(storage: object) -> bool:
    """Whether runs are kept in PostgreSQL, which other machines reach too."""
    return hasattr(storage, "postgres_url")


@contextmanager
def _mistakes_told(home: Path) -> Iterator[None]:
    """Says in a line what is wrong with the user's dagster.yaml."""
    try:
        yield
    except (DagsterInvalidConfigError, CheckError, YAMLError, ImportError) as error:
        whole = str(error)
        if unset := sorted(set(_UNSET.findall(whole))):
            said = f"{', '.join(unset)} of the environment must be set"
        elif isinstance(error, DagsterInvalidConfigError):
            said = "; ".join(message.partition(" Expected:")[0] for message in error.error_messages)
        else:
            said = " ".join(whole.removeprefix("Failure condition: ").split())
        raise WarehouseError(f"{home / CONFIG}: {said}") from error


@contextmanager
def _outages_told(home: Path) -> Iterator[None]:
    """Says in a line that a database of Dagster's does not answer or cannot be written."""
    try:
        yield
    except OperationalError as error:
        raise _refused(home, error) from error
    except Exception as error:
        # After its tries to connect Dagster raises an error of its own, of a package that may not be installed.
        if isinstance(error.__cause__, OperationalError):
            raise _refused(home, error.__cause__) from error
        raise


def _refused(home: Path, error: OperationalError) -> WarehouseError:
    said = str(error.orig).strip().partition("\n")[0]
    if isinstance(error.orig, sqlite3.Error):
        return WarehouseError(f"{home}: {said}; free some space or choose another place with --warehouse")
    return WarehouseError(f"{home / CONFIG}: {said}; start the database, or mend `storage` there")


@contextmanager
def databases_kept_open() -> Iterator[None]:
    """Keeps Dagster from waiting for the disk at each of the hundreds of events of a run.

    It connects anew for every event; the last connection that leaves a file moves its log into it. One more connection,
    held here, makes sure that none is the last before the end. Nor does a commit wait: should the machine lose
    power, the last events may be missing, the files stay whole, and what was computed is known from the Parquet files.
    An engine for every connection would also compile every statement anew: each file keeps its engine. One such block
    may stand inside another, not overlap it.
    """
    kept: dict[str, sqlite3.Connection] = {}

    @lru_cache(_MOST_KEPT)
    def made(url: str, timeout: float | None) -> Engine:
        # No pool: Dagster disposes of the engine behind every event, and another thread may use it then.
        return create_engine(url, poolclass=NullPool, connect_args={} if timeout is None else {"timeout": timeout})

    def engine(url: str, poolclass: type[Pool], connect_args: Mapping[str, float] | None = None) -> Engine:
        given = connect_args or {}
        if poolclass is not NullPool or set(given) - {"timeout"}:
            raise ValueError(f"Dagster opens SQLite by {poolclass} and {given}, which this does not know")
        return made(url, given.get("timeout"))

    def keep(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = NORMAL")
            (_, _, file) = connection.execute("PRAGMA database_list").fetchone()
            if file and file not in kept:
                # Dagster's workers are other threads than the one that closes.
                kept[file] = sqlite3.connect(file, check_same_thread=False)
                # Only a connection that has read from the log counts as one, and a new file has no log yet.
                kept[file].execute("PRAGMA journal_mode = WAL").fetchone()
                kept[file].execute("SELECT count(*) FROM sqlite_master").fetchall()
            if len(kept) > _MOST_KEPT:  # every run has a file of its own, and thousands may follow one another
                kept.pop(next(iter(kept))).close()
            if file:
                kept[file] = kept.pop(file)

    event.listen(Pool, "connect", keep)
    before = [storage.create_engine for storage in _STORAGES]
    try:
        for storage in _STORAGES:
            vars(storage)["create_engine"] = engine
        yield
    finally:
        for storage, made in zip(_STORAGES, before, strict=True):
            vars(storage)["create_engine"] = made
        event.remove(Pool, "connect", keep)
        for connection in kept.values():
            connection.close()


def require_space(root: Path) -> None:
    """Refuses before anything is computed; a disk that fills up later is refused where it happens.

    Raises:
        WarehouseError: the disk is all but full.
    """
    if shutil.disk_usage(root).free < LEAST_SPACE:
        raise WarehouseError(
            f"{root}: less than {LEAST_SPACE >> 20} MiB are free; free some space or choose another --warehouse"
        )


# Locks that this process holds, by their files.
_HELD: dict[Path, int] = {}


@contextmanager
def only_writer(root: Path, waiting: Callable[[], None], url: str | None = None) -> Iterator[int]:
    """Holds the warehouse for one study at a time; a killed process lets go of it by dying.

    What already holds it goes on: a run inside another run's process is part of it.

    In a folder, processes wait for each other; those of other machines too where a shared file system passes locks on,
    as NFS 4 does. On an object store machines wait for each other if DAGSTER_HOME keeps Dagster's history in one
    PostgreSQL database; else only this machine's processes do, and of two machines that write the same partition the
    last one wins, whole.

    Args:
        root: as in `prepare_home`.
        waiting: called once if another process holds it.
        url: the warehouse as other machines name it too; None for a folder.

    Yields:
        The lock's file descriptor. The warehouse is held on this machine until every process that was given a copy
        has closed it.

    Raises:
        WarehouseError: the folder cannot be written, or the database cannot be reached.
    """
    lock = root.resolve() / "_lock"
    if lock in _HELD:
        yield _HELD[lock]
        return
    with translate_os_errors(lock):
        root.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file, ExitStack() as held:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        if url is not None:
            held.enter_context(_only_machine(prepare_home(root), url, waiting))
        _HELD[lock] = file.fileno()
        held.callback(_HELD.pop, lock)
        yield file.fileno()


@contextmanager
def _only_machine(home: Path, url: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds a warehouse among the machines that share a PostgreSQL database; a lost connection lets go of it."""
    with ExitStack() as kept:
        with _outages_told(home), _mistakes_told(home):
            storage = _ref(home).storage
            runs = None if storage is None else storage.run_storage
            if _is_shared(runs):
                connection = kept.enter_context(runs.connect())
                key = int.from_bytes(hashlib.sha256(f"prunescope {url}".encode()).digest()[:8], "big", signed=True)
                asked = text("SELECT pg_try_advisory_lock(:key)").bindparams(key=key)
                is_told = False
                while not connection.execute(asked).scalar():
                    if not is_told:
                        waiting()
                        is_told = True
                    # Waiting inside the database would not hear Ctrl-C.
                    time.sleep(_ASKED_AGAIN_SECONDS)
        yield


def is_busy(root: Path) -> bool:
    """Whether a process holds the warehouse as its only writer; `root` as in `prepare_home`."""
    try:
        with (root / "_lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def recover(instance: DagsterInstance, warehouse: str) -> list[str]:
    """Ends runs on this warehouse whose process was killed and frees the places that they hold in pools.

    Call it as the warehouse's only writer: whatever is still unfinished then is dead. Runs that the UI or the daemon
    has launched, of which some may wait for the warehouse, are for Dagster's run monitoring.

    Args:
        instance: that of the warehouse.
        warehouse: its place, as runs are tagged with it.

    Returns:
        Their ids.
    """
    unfinished = instance.get_runs(RunsFilter(statuses=_UNFINISHED, tags={WAREHOUSE_TAG: warehouse}))
    dead = [run for run in unfinished if GRPC_INFO_TAG not in run.tags]
    for run in dead:
        instance.report_run_failed(run, "The process of this run was killed.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]


def recover_launched(root: Path) -> list[str]:
    """Ends runs whose code server is gone, as after a crash of the machine: nobody else would, and they hold places.

    With one history for several machines it ends none: a code server of another machine cannot be asked from here.

    Args:
        root: as in `prepare_home`.

    Returns:
        Their ids.
    """
    with opened(root) as instance:
        if _is_shared(instance.run_storage):
            return []
        found = instance.get_runs(RunsFilter(statuses=_UNFINISHED))
        dead = [run for run in found if GRPC_INFO_TAG in run.tags and not _answers(run.tags[GRPC_INFO_TAG])]
        for run in dead:
            instance.report_run_failed(run, "The code server of this run is gone.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]


def _answers(server: str) -> bool:
    """Whether anybody listens where a run's tag says that its code server does."""
    place = json.loads(server)
    is_local = bool(place.get("socket"))
    with socket.socket(socket.AF_UNIX if is_local else socket.AF_INET) as probe:
        probe.settimeout(_SERVER_SECONDS)
        try:
            probe.connect(place["socket"] if is_local else (place["host"], place["port"]))
        except OSError:
            return False
    return True
