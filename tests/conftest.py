"""Fixtures that more than one room's tests use, and the rule that continuous integration skips nothing."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny_models import save_tiny

# A busy machine may stop any example for longer than a deadline: what is wrong is never only slow.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# Files that take longest, in this order, for a long one at the end leaves all other processes idle. `automation`
# computes the warehouse that most of those behind it copy; the ones before need none, so that no process waits for it.
_LONGEST = [
    "assets/automation/test_end_to_end.py",
    "pipelines/evaluation/traces/test_demo_float64.py",
    "pipelines/reporting/charts/test_figures.py",
    "pipelines/reporting/explorer/test_browser.py",
    "pipelines/reporting/explorer/test_documents.py",
    *(
        f"assets/test_{name}.py"
        for name in (
            *("automation", "ui", "interrupted", "server", "ray", "cli_keeping", "cli_queries", "cli_paper"),
            *("run", "engines", "worker", "cli_checkpoint", "pruned_together", "own_calibration", "serve"),
        )
    ),
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays, so the garbage collector need not look through it: not while it comes, nor ever after.

    Its millions of objects took a third of the time of the collection of tests, and up to a second of every
    `gc.collect()` in one.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order within a file and of all others stays."""
    place = {Path(__file__).parent / name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the user's cache; the catalogue's views are built once for all processes of a test run."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(shared / "user-cache"))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of three layers."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """On a continuous integration machine a skipped test is a missing installation, and fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
