"""Runs that sensors launch: after which changes, and how often. Real files and instance, no daemon."""

import fcntl
import io
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunRequest, SensorResult, SkipReason, build_sensor_context

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.definitions import defs
from prunescope.assets.defs.recipe_asset import DATA_VERSION_TAG
from prunescope.assets.instance.instance import open_instance
from prunescope.assets.planning import freshness
from prunescope.assets.planning.freshness import report_file
from prunescope.assets.runs.sensors import MODELS_TAG, STUDY_TAG, WATCH_TAG, nightly, watch_sensor
from prunescope.assets.watching import backlog
from prunescope.pipelines.models.sources import identify
from prunescope.pipelines.studies import load_study
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import RECIPES, StudyFile
from tests.tiny_models import SHORT_TEXT

# The first test waits for the tiny study to be computed.
pytestmark = pytest.mark.timeout(900)
MORE = {"recipes": [*RECIPES, "mlp-drop-1"]}
LESS = {"recipes": ["dense", {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}, *RECIPES[2:]]}


@dataclass
class WatchedWarehouse:
    """A warehouse with a watched study, and the steps of the daemon."""

    warehouse: Path
    instance: DagsterInstance
    cursor: str | None = None
    log: str = ""

    def tick(self) -> SensorResult:
        """Run one tick of the sensor from its last cursor."""
        context, text = build_sensor_context(instance=self.instance, cursor=self.cursor), io.StringIO()
        context.log.addHandler(logging.StreamHandler(text))
        found = watch_sensor(context)
        assert not isinstance(found, SkipReason), found.skip_message
        self.cursor, self.log = found.cursor, text.getvalue()
        return found

    def requested(self) -> list[str]:
        """Run a tick; return the studies of the requested runs."""
        return [each.tags[STUDY_TAG] for each in self.tick().run_requests]

    def started(self, **tags: str) -> str:
        """Create a run that has started, as the daemon does."""
        job = defs.resolve_job_def("study")
        return self.instance.create_run_for_job(job, status=DagsterRunStatus.STARTED, tags=tags).run_id


@pytest.fixture
def watched(
    study: StudyFile, warehouse: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WatchedWarehouse]:
    identify(study.model, cache)  # as the run that computed the warehouse did, perhaps in another process
    monkeypatch.setenv("PRUNESCOPE_WAREHOUSE", str(warehouse))
    monkeypatch.setattr("prunescope.assets.watching.watch_list._is_changing", lambda entry: False)
    assert run(["watch", str(study.path)], Globals()) == 0
    with open_instance(warehouse) as instance:
        yield WatchedWarehouse(warehouse, instance)


def require_whole_study(request: RunRequest, study: StudyFile, *added: str) -> None:
    allowed = {"allow_code_execution": False, "allow_python": False}
    wanted = {"study": str(study.path), "models": [], "recipes": [], "added": [*added], "search": ""} | allowed
    assert request.run_config["resources"]["study"]["config"] == wanted
    assert "ops" not in request.run_config, "the answers are part of it"


def test_each_change_is_requested_once_when_no_process_computes(
    watched: WatchedWarehouse, study: StudyFile, tiny_folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    assert watched.requested() == []
    assert isinstance(nightly(), SkipReason)
    copied = {"name": "tiny-a", "source": str(shutil.copytree(tiny_folder, tmp_path / "copied"))}
    other = {"name": "line", "source": str(other_folder)}
    keys, current = [], study.path.read_text()
    for changes in (
        MORE,
        LESS,
        {"generation": {"new_tokens": 3}},
        {"calibration": {"source": SHORT_TEXT, "sequences": 3, "length": 32}},
        {"models": [copied]},
        {"models": [{"name": "tiny-a", "source": str(tiny_folder)}, other]},
        {"title": "of the report"},
        {"title": "of the report"},
    ):
        StudyFile(study.path, study.model, keys=changes)
        with (watched.warehouse / "_lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert watched.requested() == [], changes
        (request,) = watched.tick().run_requests
        require_whole_study(request, study)
        models = "tiny-a,line" if other in changes.get("models", ()) else "tiny-a"
        assert request.tags == {WATCH_TAG: "due", STUDY_TAG: "tiny", MODELS_TAG: models}
        assert watched.requested() == [], f"also if that run has failed: {changes}"
        keys.append(request.run_key)
        study.path.write_text(current)
        assert watched.requested() == [], f"as computed, without {changes}"
    assert len({*keys}) == len(keys), "of a key the daemon starts one run"
    assert "mlp-drop-1" in watched.instance.get_dynamic_partitions("recipe"), "the interface shows it at once"


def test_a_partition_that_is_outdated_again_is_requested_again(watched: WatchedWarehouse, study: StudyFile) -> None:
    for tokens, wanted in ((3, ["tiny"]), (4, []), (3, ["tiny"])):
        study.write(generation={"new_tokens": tokens})
        assert watched.requested() == wanted


def test_a_further_change_is_requested_while_other_work_still_fails(
    watched: WatchedWarehouse, study: StudyFile, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one " * 200)
    for change in (
        (watched.warehouse / report_file(load_study(str(study.path)))).unlink,
        lambda: study.write(**MORE),
        Store(watched.warehouse).path(TABLES["text_tokens"], "tiny-a", "magnitude-50").unlink,
        lambda: study.write(recipes=[*RECIPES, "mlp-drop-1", "mlp-drop-2"]),
        lambda: study.write(texts=[{"id": "help", "source": str(text), "context": 16, "max_tokens": 16}]),
        lambda: text.write_text("two " * 200),
    ):
        change()
        assert [watched.requested() for _ in range(2)] == [["tiny"], []]


def test_a_model_in_the_folder_is_requested_until_it_is_removed(
    watched: WatchedWarehouse, study: StudyFile, other_folder: Path
) -> None:
    place = shutil.copytree(other_folder, watched.warehouse / "_models" / "night")
    study.write(**MORE)
    (request,) = watched.tick().run_requests
    require_whole_study(request, study, f"night={place}")
    assert request.tags[MODELS_TAG] == "tiny-a,night"
    assert "night" in watched.instance.get_dynamic_partitions("model")
    tags = {WATCH_TAG: "due", STUDY_TAG: "tiny"}
    of_both = watched.started(**tags, **{MODELS_TAG: "tiny-a,night"})
    of_other, by_hand = watched.started(**tags, **{MODELS_TAG: "tiny-a"}), watched.started()
    assert watched.requested() == []
    shutil.rmtree(place)

    def status() -> list[DagsterRunStatus]:
        return [watched.instance.get_run_by_id(each).status for each in (of_both, of_other, by_hand)]

    started = DagsterRunStatus.STARTED
    study.path.write_text("models: [")
    assert watched.requested() == []
    assert status() == [started] * 3, "what an unreadable study holds is not known"
    study.write()
    (request,) = watched.tick().run_requests
    require_whole_study(request, study)
    assert status() == [DagsterRunStatus.CANCELING, started, started]


def test_an_error_is_reported_once(watched: WatchedWarehouse, other_folder: Path) -> None:
    (shutil.copytree(other_folder, watched.warehouse / "_models" / "broken") / "config.json").unlink()
    for times in (1, 0):
        watched.tick()
        assert watched.log.count("no config.json") == times


def test_a_changed_recipe_has_its_new_version_in_the_interface(watched: WatchedWarehouse, study: StudyFile) -> None:
    study.write(**LESS)
    (event,) = watched.tick().asset_events
    version = load_study(str(study.path)).recipe("magnitude-50").hash
    assert (event.partition, event.tags) == ("magnitude-50", {DATA_VERSION_TAG: version})


def test_partitions_of_another_study_are_left_alone(
    watched: WatchedWarehouse, study: StudyFile, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    keys = {"recipes": ["dense", "wanda-50"], "generation": {"new_tokens": 3}}
    other = StudyFile(tmp_path / "other.yaml", study.model, name="other", keys=keys)
    assert run(["watch", str(other.path)], Globals()) == 0
    assert watched.requested() == [], "tiny's traces are tiny's"
    study.write(generation={"new_tokens": 3})
    assert watched.requested() == ["tiny"]
    capsysbinary.readouterr()
    assert run(["watch", "--format", "json"], Globals()) == 0
    columns = ("missing", "outdated", "of_another_study")
    counts = {row["study"]: [row[name] for name in columns] for row in json.loads(capsysbinary.readouterr().out)}
    assert counts == {"tiny": [0, len(RECIPES), 0], "other": [1, 0, 1]}, "the dense variant alone is in both"
    assert run(["watch", "--stop", "tiny"], Globals()) == 0
    assert watched.requested() == [], "also if tiny is no longer watched"


def test_the_nightly_schedule_retries_what_failed(watched: WatchedWarehouse, study: StudyFile) -> None:
    study.write(**MORE)
    assert [watched.requested() for _ in range(2)] == [["tiny"], []]
    (request,) = nightly()
    assert re.fullmatch(r"tiny \d{4}-\d\d-\d\d", request.run_key), "nights that are caught up on share one run"
    require_whole_study(request, study)


def test_a_second_tick_opens_no_file(watched: WatchedWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    scanner, store = backlog.FreshnessScanner(), Store(watched.warehouse)
    assert not scanner.scan(store).due
    monkeypatch.setattr(freshness, "read_footer", lambda path: pytest.fail(f"{path} was opened again"))
    monkeypatch.setattr(backlog, "model_work", lambda *_, **__: pytest.fail("the model was compared again"))
    monkeypatch.setattr(backlog, "VerifiedFiles", lambda *_: pytest.fail("the memory of whole files was read again"))
    assert not scanner.scan(store).due


def test_sensors_report_a_wrong_watch_list_and_start_nothing(watched: WatchedWarehouse) -> None:
    (watched.warehouse / "_watch.yaml").write_text("studies: [")
    for found in (watch_sensor(build_sensor_context(instance=watched.instance)), nightly()):
        assert "_watch.yaml: line 1: not valid YAML" in found.skip_message
