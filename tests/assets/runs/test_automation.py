"""Runs that sensors launch: after which changes, and how often. Real files and instance, no daemon."""

import fcntl
import io
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    SkipReason,
    build_sensor_context,
)

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
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import RECIPES, StudyFile
from tests.tiny_models import SHORT_TEXT

# The first test waits for the tiny study to be computed.
pytestmark = pytest.mark.timeout(900)
LESS = {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}


@dataclass
class WatchedWarehouse:
    """A warehouse with a watched study, and the steps of the daemon."""

    warehouse: Path
    instance: DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)

    def tick(self, sensor) -> list[RunRequest]:
        """Run one tick of a sensor from its last cursor."""
        context = build_sensor_context(instance=self.instance, cursor=self.cursors.get(sensor.name))
        found = sensor(context)
        assert not isinstance(found, SkipReason), found.skip_message
        self.cursors[sensor.name] = found.cursor
        return list(found.run_requests)

    def requested(self) -> list[str]:
        """Run a tick; return the studies of the requested runs, each of which is of a whole study."""
        requests = self.tick(watch_sensor)
        assert all(not config_of(each)["models"] and not config_of(each)["recipes"] for each in requests)
        return [each.tags[STUDY_TAG] for each in requests]

    def unfinished(self, job: str, status: DagsterRunStatus, **tags: str) -> str:
        """Create a run in a state, as the daemon does."""
        whole = {key.replace("__", "/"): value for key, value in tags.items()}
        created = self.instance.create_run_for_job(defs.resolve_job_def(job), status=status, tags=whole)
        return created.run_id


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


def config_of(request: RunRequest) -> dict[str, object]:
    return request.run_config["resources"]["study"]["config"]


def assert_is_of_a_whole_study(request: RunRequest, study: StudyFile) -> None:
    allowed = {"allow_code_execution": False, "allow_python": False}
    empty = {"models": [], "recipes": [], "added": [], "search": ""} | allowed
    assert config_of(request) == {"study": str(study.path), **empty}
    assert "ops" not in request.run_config, "the answers are part of it"


def test_no_run_starts_while_everything_is_current(watched: WatchedWarehouse) -> None:
    assert watched.requested() == []
    assert isinstance(nightly(), SkipReason)


def test_no_run_starts_for_a_study_that_is_not_watched(watched: WatchedWarehouse, study: StudyFile) -> None:
    assert run(["watch", "--stop", "tiny"], Globals()) == 0
    study.write(recipes=["dense", LESS, "mlp-drop-1"], generation={"new_tokens": 3})
    assert watched.requested() == []


def test_a_new_recipe_is_requested_once(watched: WatchedWarehouse, study: StudyFile) -> None:
    study.write(recipes=[*RECIPES, "mlp-drop-1"])
    (request,) = watched.tick(watch_sensor)
    assert_is_of_a_whole_study(request, study)
    assert request.tags == {WATCH_TAG: "due", STUDY_TAG: "tiny", MODELS_TAG: "tiny-a"}
    assert "mlp-drop-1" in watched.instance.get_dynamic_partitions("recipe"), "the interface shows it at once"
    assert watched.requested() == [], "also where that run has failed"
    study.write(recipes=[*RECIPES, "mlp-drop-1", "mlp-drop-2"])
    assert watched.requested() == ["tiny"]


def test_a_model_in_the_folder_is_requested_until_it_is_removed(
    watched: WatchedWarehouse, study: StudyFile, other_folder: Path
) -> None:
    place = shutil.copytree(other_folder, watched.warehouse / "_models" / "night")
    study.write(recipes=[*RECIPES, "mlp-drop-1"])
    (request,) = watched.tick(watch_sensor)
    assert config_of(request)["added"] == [f"night={place}"]
    assert request.tags[MODELS_TAG] == "tiny-a,night"
    assert "night" in watched.instance.get_dynamic_partitions("model")
    tags = {"prunescope__watched": "due", "prunescope__study": "tiny"}
    of_both = watched.unfinished("study", DagsterRunStatus.STARTED, **tags, prunescope__models="tiny-a,night")
    of_other = watched.unfinished("study", DagsterRunStatus.STARTED, **tags, prunescope__models="tiny-a")
    by_hand = watched.unfinished("study", DagsterRunStatus.STARTED)
    assert watched.requested() == []
    shutil.rmtree(place)
    (request,) = watched.tick(watch_sensor)
    assert config_of(request)["added"] == [], "what is left of the study is requested again"
    status = {each: watched.instance.get_run_by_id(each).status for each in (of_both, of_other, by_hand)}
    assert status == {
        of_both: DagsterRunStatus.CANCELING,
        of_other: DagsterRunStatus.STARTED,
        by_hand: DagsterRunStatus.STARTED,
    }


def test_a_model_that_is_added_to_the_study_is_requested(
    watched: WatchedWarehouse, study: StudyFile, other_folder: Path
) -> None:
    both = [{"name": "tiny-a", "source": str(study.model)}, {"name": "line", "source": str(other_folder)}]
    study.write(models=both)
    (request,) = watched.tick(watch_sensor)
    assert request.tags[MODELS_TAG] == "tiny-a,line"


def test_an_unreadable_study_stops_no_run(watched: WatchedWarehouse, study: StudyFile) -> None:
    tags = {"prunescope__watched": "due", "prunescope__study": "tiny", "prunescope__models": "tiny-a"}
    queued = watched.unfinished("study", DagsterRunStatus.STARTED, **tags)
    study.path.write_text("models: [")
    assert watched.requested() == []
    assert watched.instance.get_run_by_id(queued).status == DagsterRunStatus.STARTED


def test_an_error_is_reported_once(watched: WatchedWarehouse, other_folder: Path) -> None:
    broken = shutil.copytree(other_folder, watched.warehouse / "_models" / "broken")
    (broken / "config.json").unlink()

    def said(cursor: str | None) -> tuple[str, str | None]:
        context, text = build_sensor_context(instance=watched.instance, cursor=cursor), io.StringIO()
        context.log.addHandler(logging.StreamHandler(text))
        found = watch_sensor(context)
        return text.getvalue(), found.cursor

    first, cursor = said(None)
    assert first.count("no config.json") == 1
    assert "no config.json" not in said(cursor)[0]


def test_the_variants_of_a_changed_parameter_are_requested_once(watched: WatchedWarehouse, study: StudyFile) -> None:
    study.write(recipes=["dense", LESS, "wanda-2of4", "attn-drop-1"])
    context = build_sensor_context(instance=watched.instance)
    (event,) = watch_sensor(context).asset_events
    assert (event.partition, event.tags) == (
        "magnitude-50",
        {DATA_VERSION_TAG: study_of(study).recipe("magnitude-50").hash},
    )
    assert watched.requested() == ["tiny"]
    assert watched.requested() == [], "also if that run has failed"
    study.write(recipes=["dense", LESS | {"sparsity": 0.3}, "wanda-2of4", "attn-drop-1"])
    assert watched.requested() == ["tiny"]


def test_a_changed_prompt_set_makes_all_variants_outdated(
    watched: WatchedWarehouse, study: StudyFile, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    study.write(generation={"new_tokens": 3})
    assert watched.requested() == ["tiny"]
    keys = {"recipes": ["dense", "wanda-50"], "generation": {"new_tokens": 3}}
    other = StudyFile(tmp_path / "other.yaml", study.model, name="other", keys=keys)
    capsysbinary.readouterr()
    assert run(["watch", str(other.path), "--format", "json"], Globals()) == 0
    columns = ("missing", "outdated", "of_another_study")
    counts = {row["study"]: [row[name] for name in columns] for row in json.loads(capsysbinary.readouterr().out)}
    assert counts == {"tiny": [0, len(RECIPES), 0], "other": [1, 0, 1]}, "the dense variant alone is in both"


def test_a_file_that_a_study_names_is_one_of_its_inputs(
    watched: WatchedWarehouse, study: StudyFile, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one " * 200)
    study.write(texts=[{"id": "help", "source": str(text), "context": 16, "max_tokens": 16}])
    assert watched.requested() == ["tiny"]
    text.write_text("two " * 200)
    assert watched.requested() == ["tiny"]


@pytest.mark.parametrize("what", ["generation", "calibration", "model", "answers"])
def test_what_is_outdated_is_requested_once_when_no_process_computes(
    what: str, watched: WatchedWarehouse, study: StudyFile, tiny_folder: Path, tmp_path: Path
) -> None:
    if what == "generation":
        study.write(generation={"new_tokens": 3})
    elif what == "calibration":
        study.write(calibration={"source": SHORT_TEXT, "sequences": 3, "length": 32})
    elif what == "model":
        copied = shutil.copytree(tiny_folder, tmp_path / "copied")
        study.write(models=[{"name": "tiny-a", "source": str(copied)}])
    else:
        (watched.warehouse / report_file(study_of(study))).unlink()
    with (watched.warehouse / "_lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert watched.requested() == []
    assert watched.requested() == ["tiny"]
    assert watched.requested() == [], "also where that run has failed"


def test_a_partition_that_is_outdated_again_is_requested_again(watched: WatchedWarehouse, study: StudyFile) -> None:
    for tokens, wanted in ((3, ["tiny"]), (4, []), (3, ["tiny"])):
        study.write(generation={"new_tokens": tokens})
        assert watched.requested() == wanted


def test_partitions_of_another_study_are_left_alone(
    watched: WatchedWarehouse, study: StudyFile, tmp_path: Path
) -> None:
    other = StudyFile(tmp_path / "other.yaml", study.model, name="other", keys={"generation": {"new_tokens": 3}})
    assert run(["watch", str(other.path)], Globals()) == 0
    assert watched.requested() == [], "tiny's traces are tiny's"
    found = backlog.FreshnessScanner().scan(Store(watched.warehouse))
    assert found.of_others == {("other", "tiny-a"): dict.fromkeys(RECIPES, "tiny")}
    assert run(["watch", "--stop", "tiny"], Globals()) == 0
    assert watched.requested() == [], "also if it is no longer watched"


def test_answers_of_an_earlier_version_are_requested_again(watched: WatchedWarehouse, study: StudyFile) -> None:
    keys = []
    for title in ("one", "two", "one"):
        study.write(title=title)
        (request,) = watched.tick(watch_sensor)
        keys.append(request.run_key)
        assert watched.requested() == []
    assert len(set(keys)) == 3, "of a key the daemon starts one run"


def test_what_is_deleted_is_requested_while_other_work_still_fails(watched: WatchedWarehouse, study: StudyFile) -> None:
    study.write(recipes=[*RECIPES, "mlp-drop-1"])
    assert [watched.requested() for _ in range(2)] == [["tiny"], []]
    Store(watched.warehouse).path(TABLES["text_tokens"], "tiny-a", "magnitude-50").unlink()
    assert [watched.requested() for _ in range(2)] == [["tiny"], []]


def test_the_nightly_schedule_retries_what_failed(watched: WatchedWarehouse, study: StudyFile) -> None:
    study.write(recipes=[*RECIPES, "mlp-drop-1"])
    assert watched.tick(watch_sensor)
    assert watched.tick(watch_sensor) == []
    (request,) = nightly()
    assert re.fullmatch(r"tiny \d{4}-\d\d-\d\d", request.run_key), "nights that are caught up on share one run"
    assert_is_of_a_whole_study(request, study)


def test_a_second_tick_opens_no_file(watched: WatchedWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    surveyor, store = backlog.FreshnessScanner(), Store(watched.warehouse)
    assert not surveyor.scan(store).due
    monkeypatch.setattr(freshness, "read_footer", lambda path: pytest.fail(f"{path} was opened again"))
    monkeypatch.setattr(backlog, "model_work", lambda *_, **__: pytest.fail("the model was compared again"))
    monkeypatch.setattr(backlog, "VerifiedFiles", lambda *_: pytest.fail("the memory of whole files was read again"))
    assert not surveyor.scan(store).due


def test_sensors_report_a_wrong_watch_list_and_start_nothing(watched: WatchedWarehouse) -> None:
    (watched.warehouse / "_watch.yaml").write_text("studies: [")
    found = watch_sensor(build_sensor_context(instance=watched.instance))
    assert "_watch.yaml: line 1: not valid YAML" in found.skip_message


def study_of(file: StudyFile):
    from prunescope.pipelines.studies import load_study

    return load_study(str(file.path))
