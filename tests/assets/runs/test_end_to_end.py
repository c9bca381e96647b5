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

    def runs(self) -> list[tuple[str, str, dict[str, str]]]:
        """Return job, status and tags of each run, without those inside the run of a whole study."""
        query = "{ runsOrError { ... on Runs { results { jobName status tags { key value } } } } }"
        found = []
        for each in self.interface.ask(query)["runsOrError"]["results"]:
            tags = {tag["key"]: tag["value"] for tag in each["tags"]}
            if "prunescope/watched" in tags:
                found.append((each["jobName"], each["status"], tags))
        return found

    def is_done(self) -> bool:
        """Return whether no run is left."""
        found = self.runs()
        assert not any(status == "FAILURE" for _, status, _ in found), found
        return all(status == "SUCCESS" for _, status, _ in found)

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


def of(model: str, recipe: str | None, tables: tuple[str, ...]) -> set[str]:
    inner = f"/recipe={recipe}" if recipe else ""
    return {f"{table}/model={model}{inner}/part.parquet" for table in tables}


# Other tests prove each step: test_automation.py, test_watch_list.py, test_staleness.py and test_interface.py.
@pytest.mark.exhaustive
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_added_models_are_computed_changed_recipes_recomputed_and_removed_models_left_alone(
    daemon: RunningDaemon, other_folder: Path
) -> None:
    place = shutil.copytree(other_folder, daemon.warehouse / "_models" / "night")
    everything = {
        name
        for model in ("tiny-a", "night")
        for names in (of(model, None, MODEL_TABLES), *(of(model, r, OF_VARIANT) for r in ("dense", "magnitude-50")))
        for name in names
    }
    report = daemon.warehouse / "_reports" / "tiny.html"
    daemon.wait_until(lambda: report.exists() and "night" in report.read_text(), "no report with the new model")
    daemon.wait_until(daemon.is_done, "a run does not end")
    assert set(partitions(daemon.warehouse)) == everything
    launched = [tags["prunescope/models"] for _, _, tags in daemon.runs() if tags["prunescope/watched"] == "due"]
    assert set(launched) <= {"tiny-a", "tiny-a,night"}
    assert daemon.interface.stale() == set()

    before, published = partitions(daemon.warehouse), daemon.published("magnitude-50")
    changed = {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}
    with (daemon.warehouse / "_lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # no run computes meanwhile
        daemon.study.write(recipes=["dense", changed])
        daemon.wait_until(lambda: daemon.published("magnitude-50") > published, "the parameter is not published")
        stale = daemon.interface.stale()
    of_magnitude = {f"{table}[{model}|magnitude-50]" for table in OF_VARIANT for model in ("tiny-a", "night")}
    assert stale == of_magnitude | ANSWERS
    again = {model: of(model, "magnitude-50", OF_VARIANT) for model in ("tiny-a", "night")}
    daemon.wait_until(lambda: written_since(before, daemon.warehouse) >= again["tiny-a"] | again["night"], "not again")
    daemon.wait_until(daemon.is_done, "a run does not end")
    assert written_since(before, daemon.warehouse) == again["tiny-a"] | again["night"]
    assert daemon.interface.stale() == set()

    shutil.rmtree(place)
    before = partitions(daemon.warehouse)
    daemon.study.write(recipes=["dense", changed | {"sparsity": 0.3}])
    daemon.wait_until(lambda: written_since(before, daemon.warehouse) >= again["tiny-a"], "not made again")
    daemon.wait_until(daemon.is_done, "a run does not end")
    assert written_since(before, daemon.warehouse) == again["tiny-a"], (
        "the data of the model that left are as they were"
    )
