"""End-to-end run with the real daemon and interface: a model is added, a parameter changed, the model removed."""

import fcntl
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.planning.steps import MODEL_TABLES, TRACE_TABLES
from tests.assets.publishing.interface.browser_interface import Interface, free_port, started
from tests.assets.tiny_study import ANSWERS, StudyFile, partitions, written_since

# Seconds for a single step, on a machine with other work.
PATIENCE = 600.0
OF_VARIANT = ("variants", "mask_samples", *TRACE_TABLES, "text_tokens")


@dataclass
class RunningDaemon:
    """A running interface and daemon over a warehouse whose study is watched."""

    study: StudyFile
    warehouse: Path
    interface: Interface
    process: subprocess.Popen[bytes]

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert self.process.poll() is None, "the interface has ended"
            assert time.monotonic() < deadline, f"{what}; runs: {self.runs()}"
            time.sleep(0.3)

    def runs(self) -> list[tuple[str, str]]:
        """Return status and models of each run that the sensor launched."""
        query = "{ runsOrError { ... on Runs { results { status tags { key value } } } } }"
        found = []
        for each in self.interface.ask(query)["runsOrError"]["results"]:
            tags = {tag["key"]: tag["value"] for tag in each["tags"]}
            if tags.get("prunescope/watched") == "due":
                found.append((each["status"], tags["prunescope/models"]))
        return found

    def wait_until_done(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for what runs bring about, and until none is left."""

        def is_done() -> bool:
            found = {status for status, _ in self.runs()}
            assert "FAILURE" not in found
            return found == {"SUCCESS"}

        self.wait_until(is_so, what)
        self.wait_until(is_done, "a run does not end")

    def published(self, recipe: str) -> int:
        """Return how often a recipe was published."""
        query = (
            '{ assetNodeOrError(assetKey: {path: ["recipe"]}) { ... on AssetNode { '
            f'assetMaterializations(partitions: ["{recipe}"]) {{ runId }} }} }} }}'
        )
        return len(self.interface.ask(query)["assetNodeOrError"]["assetMaterializations"])


@pytest.fixture
def daemon(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningDaemon]:
    monkeypatch.setenv("PRUNESCOPE_WATCH_SECONDS", "2")
    warehouse = tmp_path / "warehouse"
    study = StudyFile(tmp_path / "tiny.yaml", tiny_folder)
    prompt = {"id": "open", "kind": "open", "text": "Why is the sky blue?"}
    study.write(recipes=["dense", "magnitude-50"], prompts=[prompt], texts=[], tasks=[])
    assert run(["watch", str(study.path), "--warehouse", str(warehouse)], Globals()) == 0
    with started(warehouse, free_port()) as (interface, process):
        yield RunningDaemon(study, warehouse, interface, process)


def of(recipe: str | None, tables: tuple[str, ...], *models: str) -> set[str]:
    inner = f"/recipe={recipe}" if recipe else ""
    return {f"{table}/model={model}{inner}/part.parquet" for table in tables for model in models}


# Other tests prove each step: test_automation.py, test_watch_list.py, test_staleness.py and test_interface.py.
@pytest.mark.exhaustive
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_added_models_are_computed_changed_recipes_recomputed_and_removed_models_left_alone(
    daemon: RunningDaemon, other_folder: Path
) -> None:
    both, warehouse = ("tiny-a", "night"), daemon.warehouse
    place = shutil.copytree(other_folder, warehouse / "_models" / "night")
    report = warehouse / "_reports" / "tiny.html"
    daemon.wait_until_done(lambda: report.exists() and "night" in report.read_text(), "no report with the new model")
    of_variants = of("dense", OF_VARIANT, *both) | of("magnitude-50", OF_VARIANT, *both)
    assert set(partitions(warehouse)) == of(None, MODEL_TABLES, *both) | of_variants
    assert {models for _, models in daemon.runs()} <= {"tiny-a", "tiny-a,night"}
    assert daemon.interface.stale() == set()

    before, published = partitions(warehouse), daemon.published("magnitude-50")
    changed = {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}
    with (warehouse / "_lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # no run computes meanwhile
        daemon.study.write(recipes=["dense", changed])
        daemon.wait_until(lambda: daemon.published("magnitude-50") > published, "the parameter is not published")
        stale = daemon.interface.stale()
    assert stale == ANSWERS | {f"{table}[{model}|magnitude-50]" for table in OF_VARIANT for model in both}
    again = of("magnitude-50", OF_VARIANT, *both)
    daemon.wait_until_done(lambda: written_since(before, warehouse) >= again, "not made again")
    assert written_since(before, warehouse) == again
    assert daemon.interface.stale() == set()

    shutil.rmtree(place)
    before, again = partitions(warehouse), of("magnitude-50", OF_VARIANT, "tiny-a")
    daemon.study.write(recipes=["dense", changed | {"sparsity": 0.3}])
    daemon.wait_until_done(lambda: written_since(before, warehouse) >= again, "not made again")
    assert written_since(before, warehouse) == again, "the data of the model that left are as they were"
