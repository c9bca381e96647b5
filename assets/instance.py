"""The Dagster instance of a warehouse: where it lives, how it is opened, and how it recovers from killed runs.

Nothing here knows what is computed.
"""

import fcntl
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.tags import GRPC_INFO_TAG
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import Pool

from warehouse.atomic import refusals_explained
from warehouse.errors import WarehouseError

CONFIG = "dagster.yaml"
# Room for Dagster's databases and the tables of one small study.
LEAST_SPACE = 32 << 20
# How long a code server may take to accept a connection.
_SERVER_SECONDS = 5.0
# Runs carry it, so that one DAGSTER_HOME can serve several warehouses.
WAREHOUSE_TAG = "prunescope/warehouse"
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

    Dagster's databases need a folder of this machine. The history of a warehouse on an object store is therefore that
    of this machine; what is current is told by the partitions alone.

    Args:
        root: the warehouse's folder on this machine, see `Store.local`.

    Raises:
        WarehouseError: the folder cannot be written.
    """
    if chosen := os.environ.get("DAGSTER_HOME"):
        home = Path(chosen).expanduser().absolute()
        with refusals_explained(home):
            home.mkdir(parents=True, exist_ok=True)
    else:
        home = root / "_dagster"
        config = _packaged_config().read_text(encoding="utf-8")
        with refusals_explained(home):
            home.mkdir(parents=True, exist_ok=True)
            copy = home / CONFIG
            if not copy.exists() or copy.read_text(encoding="utf-8") != config:
                copy.write_text(config, encoding="utf-8")
    return home


def _packaged_config() -> Path:
    """In a wheel the file lies in this package, in a checkout at the root."""
    inside = Path(__file__).with_name(CONFIG)
    return inside if inside.exists() else Path(__file__).parents[1] / CONFIG


@contextmanager
def opened(root: Path) -> Iterator[DagsterInstance]:
    """The instance of a warehouse, for runs inside this process; `root` as in `prepare_home`.

    Raises:
        WarehouseError: its databases cannot be written, above all because the disk is full.
    """
    home = prepare_home(root)
    try:
        ref = InstanceRef.from_dir(str(home), overrides=_NO_CAPTURE)
        with _databases_kept_open(), DagsterInstance.from_ref(ref) as instance:
            yield instance
    except OperationalError as error:
        raise WarehouseError(
            f"{home}: {error.orig}; free some space or choose another place with --warehouse"
        ) from error


@contextmanager
def _databases_kept_open() -> Iterator[None]:
    """Keeps Dagster from waiting for the disk at each of the hundreds of events of a run.

    It connects anew for every event; whoever is the last to leave a file moves its log into it. One more connection,
    held here, makes sure that nobody is the last before the end. Nor does a commit wait: should the machine lose
    power, the last events may be missing, the files stay whole, and what was computed is known from the Parquet files.
    """
    kept: dict[str, sqlite3.Connection] = {}

    def keep(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = NORMAL")
            (_, _, file) = connection.execute("PRAGMA database_list").fetchone()
            if file and file not in kept:
                # Dagster's workers are other threads than the one that closes.
                kept[file] = sqlite3.connect(file, check_same_thread=False)
                # Only a connection that has read once counts as one.
                kept[file].execute("SELECT count(*) FROM sqlite_master").fetchall()

    event.listen(Pool, "connect", keep)
    try:
        yield
    finally:
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
def only_writer(root: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Holds the warehouse for one study at a time; a killed process lets go of it by dying.

    What already holds it goes on: a run inside another run's process is part of it.

    On an object store only this machine's processes wait for each other: of two machines that write the same
    partition the last one wins, whole.

    Args:
        root: as in `prepare_home`.
        waiting: called once if another process holds it.

    Yields:
        The lock's file descriptor. The warehouse is held until every process that was given a copy has closed it.

    Raises:
        WarehouseError: the folder cannot be written.
    """
    lock = root.resolve() / "_lock"
    if lock in _HELD:
        yield _HELD[lock]
        return
    with refusals_explained(lock):
        root.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        _HELD[lock] = file.fileno()
        try:
            yield file.fileno()
        finally:
            del _HELD[lock]


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

    Args:
        root: as in `prepare_home`.

    Returns:
        Their ids.
    """
    with opened(root) as instance:
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
