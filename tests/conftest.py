"""Fixtures of several rooms, the order of test files, and the failure of a CI run with skipped tests."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import examples

# The longest files in the order in which they start: a long file at the end would leave the other processes idle.
# `automation` computes the warehouse that most files copy; the five after it, which start meanwhile, need none.
_LONGEST = [
    "assets/runs/test_end_to_end.py",
    "assets/test_documents_run.py",
    "pipelines/evaluation/traces/test_demo_float64.py",
    "assets/runs/test_automation.py",
    "pipelines/evaluation/traces/test_session.py",
    "assets/cli/test_search.py",
    "pipelines/reporting/charts/test_figures.py",
    "pipelines/reporting/explorer/test_browser.py",
    "pipelines/reporting/explorer/test_documents.py",
    "assets/publishing/interface/test_interface.py",
    "assets/runs/test_interrupted.py",
    "assets/instance/test_server.py",
    "assets/execution/test_ray.py",
    "assets/cli/test_maintenance.py",
    "assets/publishing/test_explorer.py",
    "assets/publishing/test_server.py",
    "assets/cli/test_publication.py",
    "assets/cli/test_querying.py",
    "assets/runs/test_study_run.py",
    "assets/execution/test_engines.py",
    "assets/publishing/test_server_load.py",
    "assets/cli/test_checkpoint.py",
    "assets/publishing/interface/test_staleness.py",
    "warehouse/storage/test_object_store.py",
    "assets/cli/test_start.py",
    "assets/cli/test_advise.py",
]


def pytest_configure(config: pytest.Config) -> None:
    """Draw all random examples unless exhaustive tests are left out, and let every process be interrupted."""
    if config.getoption("markexpr") != "not exhaustive":
        examples.draw_all()
    # A busy machine may pause any example for longer than a deadline.
    settings.register_profile("shared", deadline=None, max_examples=examples.examples(100))
    settings.load_profile("shared")
    # A job in a shell's background ignores SIGINT, and so would the commands that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` leaves the plugin out
def pytest_xdist_auto_num_workers() -> int:
    """Start one process more than there are cores: tests wait for servers and daemons in a fifth of their time."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exclude imported objects from garbage collection, during the collection of tests and afterwards.

    Scanning these millions of objects took a third of the collection of tests, and up to a second of every
    `gc.collect()` in a test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Leave parameters out; run long files first, and keep the order within a file and of all other files."""
    examples.leave_out(items)
    yield
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(_LONGEST)}
    if missing := [str(path) for path in ranks if not path.exists()]:
        raise pytest.UsageError(f"_LONGEST names files that do not exist: {', '.join(missing)}")
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests out of the user's cache, and build the catalogue's views once for all processes of a test run."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(shared / "user-cache"))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random Llama of three layers."""
    from tests.tiny_models import save_tiny  # the process that starts the others needs no torch

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test its own folder for temporary files, without leftovers of other processes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run with skipped tests on a continuous integration machine: something is not installed there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
