"""A tiny study and a warehouse in which it has been computed once."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prunescope.warehouse.catalogue.database import views_file
from tests.assets.tiny_study import StudyFile, prunescope
from tests.canary_secrets import CANARY, MARK
from tests.tiny_models import save_tiny


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Hide the user's warehouse, cache and Dagster instance from tests, and give each its own working folder."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("PRUNESCOPE_WAREHOUSE", raising=False)
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder with the hashes of the tiny models, and the views, which one process builds for all."""
    folder = tmp_path_factory.mktemp("cache")
    built = made_once(tmp_path_factory, "views", lambda place: shutil.copy(views_file(), place))
    shutil.copytree(built, folder / "catalogues")
    return folder


@pytest.fixture
def study(tmp_path: Path, tiny_folder: Path) -> StudyFile:
    """Write the tiny study to a file that a test may change."""
    return StudyFile(tmp_path / "tiny.yaml", tiny_folder)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that all processes of a test run share and the first has filled; it must not be changed."""
    own = factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, done = shared / name, shared / f"{name}-is-done"
    with (shared / f"{name}-lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Llama of three layers, one for all processes: a report is current for one path only."""
    return made_once(tmp_path_factory, "tiny-llama", save_tiny)


@pytest.fixture(scope="session")
def computed_once(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, cache: Path) -> Path:
    """Return a warehouse in which the command line has computed the tiny study from nothing."""

    def compute(folder: Path) -> None:
        study = StudyFile(folder / "tiny.yaml", tiny_folder)
        environment = {"PRUNESCOPE_CACHE": str(cache), "OMP_NUM_THREADS": "1"} | CANARY
        done = prunescope("run", study.path, "--warehouse", folder / "warehouse", environment=environment, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert MARK.decode() not in done.stdout + done.stderr
        assert "DEBUG" not in done.stderr, "Dagster's log belongs in its history"

    return made_once(tmp_path_factory, "once", compute) / "warehouse"


@pytest.fixture
def warehouse(tmp_path: Path, computed_once: Path) -> Path:
    """Copy that warehouse for one test to change; SQLite's files beside a database vanish when a reader closes it."""
    return shutil.copytree(computed_once, tmp_path / "warehouse", ignore=shutil.ignore_patterns("*-wal", "*-shm"))


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a second tiny model with other weights."""
    return save_tiny(tmp_path_factory.mktemp("models") / "other-llama", seed=1)
