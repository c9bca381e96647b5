"""Dagster's SQLite databases are kept open."""

from pathlib import Path

import pytest
from dagster import DagsterInstance, job, op
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from sqlalchemy.pool import NullPool

from prunescope.assets.instance.instance import _STORAGES, databases_kept_open, open_instance


@op
def _nothing() -> None: ...


@job
def _idle() -> None:
    _nothing()


def _run(instance: DagsterInstance) -> Path:
    """Execute a run; return the database of its events."""
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    done = _idle.execute_in_process(instance=instance, run_config=quiet)
    (file,) = Path(instance.root_directory).rglob(f"{done.run_id}.db")
    return file


def test_no_event_of_a_run_flushes_the_log_of_a_database(tmp_path: Path) -> None:
    with open_instance(tmp_path) as instance:
        run_file = _run(instance)
        # The last connection to a database removes its log.
        assert run_file.with_name(f"{run_file.name}-wal").exists()
        assert run_file.with_name("index.db-wal").exists()


def test_a_database_has_one_engine_while_kept_open_and_dagsters_own_afterwards(
    tmp_path: Path,
) -> None:
    before = [storage.create_engine for storage in _STORAGES]
    url = f"sqlite:///{tmp_path / 'runs.db'}"

    def broken() -> None:
        with databases_kept_open():
            made = [storage.create_engine(url, poolclass=NullPool) for storage in _STORAGES]
            assert made[0] is made[1] is made[2]
            with databases_kept_open():
                assert sqlite_run_storage.create_engine(url, poolclass=NullPool) is not made[0]
            assert sqlite_run_storage.create_engine(url, poolclass=NullPool) is made[0]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert [storage.create_engine for storage in _STORAGES] == before
