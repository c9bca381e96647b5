"""Tests of the watch list, the folder into which models are copied, and the commands that change both."""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.watching import watch_list
from prunescope.assets.watching.backlog import FreshnessScanner
from prunescope.assets.watching.watch_list import (
    WatchList,
    edit_watch_list,
    load_watch_state,
    read_list,
    request_for,
)
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.file_validation import TOKENIZER_FILES
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import StudyFile, without_answers

# The first test that asks for a computed study waits for it.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty warehouse, where a copy counts as ended after a minute."""
    monkeypatch.setenv("PRUNESCOPE_WATCH_SECONDS", "60")
    return Store(tmp_path / "own")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour has passed since anything was copied."""
    import time

    now = time.time
    monkeypatch.setattr("prunescope.assets.watching.watch_list.time.time", lambda: now() + 3600)


@pytest.fixture
def drop(store: Store, tiny_folder: Path) -> Callable[[str], Path]:
    def copied(name: str) -> Path:
        return shutil.copytree(tiny_folder, store.root / "_models" / name)

    return copied


def prunescope(store: Store, *arguments: object) -> int:
    return run([*map(str, arguments), "--warehouse", str(store.root)], Globals())


def test_a_name_in_the_folder_cannot_steer_the_terminal(store: Store, settled, capsys) -> None:
    folder = store.root / "_models" / "evil\x1b[31m\u202eX"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    assert prunescope(store, "watch") == 0
    told = capsys.readouterr().err
    assert "evil\\x1b[31m\\u202eX" in told
    assert {character for character in told if not character.isprintable()} == {"\n"}


def names(store: Store) -> dict[str, set[str]]:
    return {each.study.name: {model.name for model in each.study.models} for each in load_watch_state(store).studies}


def test_a_model_in_the_folder_is_measured_by_demo_alone_where_nothing_is_watched(store: Store, drop, settled) -> None:
    assert not load_watch_state(store).studies
    path = drop("My Model")
    (watched,) = load_watch_state(store).studies
    assert watched.request == StudyRequest("demo", models=(f"my-model={path}",))
    assert [model.name for model in watched.study.models] == ["my-model"]


def test_a_model_in_the_folder_belongs_to_every_watched_study_and_not_to_demo(
    store: Store, study: StudyFile, drop, settled
) -> None:
    path = drop("new")
    assert prunescope(store, "watch", "causes", study.path) == 0
    assert {name: {"new"} < models for name, models in names(store).items()} == {"causes": True, "tiny": True}
    (_, tiny) = load_watch_state(store).studies
    assert tiny.request == StudyRequest(str(study.path), added=(f"new={path}",))
    assert tiny.study.subset == "", "the study keeps its report"


def test_a_copy_that_goes_on_is_waited_for(store: Store, drop) -> None:
    drop("new")
    found = load_watch_state(store)
    assert found.copying == ("new",)
    assert not found.studies
    assert not found.refused


def test_a_download_under_its_temporary_name_is_waited_for(store: Store, drop, settled) -> None:
    (drop("new") / "model-00002.safetensors.incomplete").touch()
    drop(".hidden"), drop("other.part")
    (store.root / "_models" / "notes.txt").write_text("not a model")
    found = load_watch_state(store)
    assert (found.copying, found.studies, found.refused) == (("new",), (), {})


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)


def without_tokenizer(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)


def index_names_another_file(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-00002.safetensors"}}))


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_short, "cut short"),
        (without_tokenizer, "no tokenizer"),
        (index_names_another_file, "named by the index but missing"),
        (as_pickle, "a pickle can run code"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json and no .gguf file"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    ],
)
def test_a_broken_model_is_named_and_does_not_stop_the_others(store: Store, drop, settled, spoil, reason) -> None:
    spoil(drop("broken"))
    drop("good")
    found = load_watch_state(store)
    assert [model.name for each in found.studies for model in each.study.models] == ["good"]
    assert list(found.refused) == [str(store.root / "_models" / "broken")]
    assert reason in found.refused[str(store.root / "_models" / "broken")]


def test_models_whose_names_would_be_the_same_get_names_of_their_own(
    store: Store, study: StudyFile, drop, settled
) -> None:
    assert prunescope(store, "watch", study.path) == 0
    drop("A b"), drop("a-b"), drop("tiny-a"), drop("模型")
    found = names(store)["tiny"]
    assert len(found) == 5
    assert {"tiny-a", "a-b"} < found
    assert names(store)["tiny"] == found


def test_a_gguf_file_is_a_model_by_itself_or_in_its_folder(store: Store, settled) -> None:
    folder = store.root / "_models"
    for place in ("one.gguf", "two/weights.gguf", "fake.gguf"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(b"GGUF" if place != "fake.gguf" else b"PK\x03\x04")
    (watched,) = load_watch_state(store).studies
    assert {model.name: model.source for model in watched.study.models} == {
        "one": str(folder / "one.gguf"),
        "two": str(folder / "two/weights.gguf"),
    }
    assert "not a GGUF file" in load_watch_state(store).refused[str(folder / "fake.gguf")]


def test_a_study_is_watched_once_listed_and_stopped(store: Store, study: StudyFile, capsysbinary) -> None:
    assert prunescope(store, "watch", study.path, "demo") == 0
    assert prunescope(store, "watch", study.path) == 0
    assert read_list(store).studies == (str(study.path), "demo")
    capsysbinary.readouterr()
    assert prunescope(store, "watch", "--format", "json") == 0
    rows = json.loads(capsysbinary.readouterr().out)
    assert [(row["study"], row["model"], row["missing"]) for row in rows] == [
        ("tiny", "tiny-a", 5),
        ("demo", "smollm2-135m-instruct", 11),
    ]
    assert (store.root / "_models").is_dir(), "where to drop a model"
    assert prunescope(store, "watch", "--stop", "tiny") == 0
    assert read_list(store).studies == ("demo",)
    assert prunescope(store, "watch", "--stop", "tiny") == 2


def test_whoever_stops_the_last_study_is_told_what_demo_measures_from_now_on(
    store: Store, study: StudyFile, drop, settled, capsys
) -> None:
    drop("new")
    assert prunescope(store, "watch", study.path) == 0
    assert "demo" not in capsys.readouterr().err
    assert prunescope(store, "watch", "--stop", "tiny") == 0
    said = capsys.readouterr().err
    assert "no study is watched, so demo measures the models that are added or copied into" in said
    assert f"{watch_list.models_folder(store)}: new;" in said


def test_add_model_looks_at_the_model_at_once(
    store: Store, study: StudyFile, tiny_folder: Path, tmp_path: Path, capsys
) -> None:
    assert prunescope(store, "watch", study.path) == 0
    assert prunescope(store, "add-model", f"mine={tiny_folder}") == 0
    assert read_list(store) == WatchList(studies=(str(study.path),), models={"mine": str(tiny_folder)})
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    cut_short(broken)
    before = (store.root / "_watch.yaml").read_bytes()
    capsys.readouterr()
    for arguments, reason in (
        ((broken,), "cut short"),
        ((tmp_path / "nowhere",), "no such folder or file"),
        ((f"tiny-a={tiny_folder}",), "'tiny-a' is listed twice"),
        ((f"mine={tiny_folder}",), "a model 'mine' was added before"),
        ((f"a b={tiny_folder}",), "is not a valid name"),
    ):
        assert prunescope(store, "add-model", *arguments) == 2
        assert reason in capsys.readouterr().err
    study.write(recipes=["dense", "attn-drop-3"])
    assert prunescope(store, "add-model", f"small={tiny_folder}") == 2
    assert "attn-drop-3" in capsys.readouterr().err
    assert (store.root / "_watch.yaml").read_bytes() == before


def test_a_stopped_model_is_taken_out_and_others_are_refused_with_what_to_do(
    store: Store, study: StudyFile, drop, settled, capsys
) -> None:
    drop("dropped")
    with edit_watch_list(store) as versions:
        versions.append(WatchList(studies=(str(study.path),), models={"mine": "org/name"}))
    assert names(store) == {"tiny": {"tiny-a", "mine", "dropped"}}
    for name in ("dropped", "tiny-a", "no"):
        assert prunescope(store, "watch", "--stop", name) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert (
            f"--stop {name}: is not watched; watched are {study.path}, mine; a model of a study is removed from" in said
        )
        assert f"one of {watch_list.models_folder(store)} by moving it out" in said
    assert prunescope(store, "watch", "--stop", "mine") == 0
    assert names(store) == {"tiny": {"tiny-a", "dropped"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("studies: [", "not valid YAML"),
        ("study: [demo]", "`study`: is not a key here; did you mean `studies`?"),
        ("models: {a: b, a: c}", "`a` is set on line 1 already"),
        ("models: {a/b: c}", "is not a valid name"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
        ("# " + "x" * 1_000_000, "larger than"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_name(store: Store, text: str, reason: str) -> None:
    store.root.mkdir()
    (store.root / "_watch.yaml").write_text(text)
    with pytest.raises(InputError, match="_watch.yaml") as caught:
        load_watch_state(store)
    assert reason in str(caught.value)


def test_a_study_that_cannot_be_read_does_not_stop_the_others(store: Store, study: StudyFile) -> None:
    assert prunescope(store, "watch", study.path, "demo") == 0
    study.path.write_text("models: [")
    found = load_watch_state(store)
    assert [each.study.name for each in found.studies] == ["demo"]
    assert list(found.refused) == [str(study.path)]
    assert not found.is_whole


def test_two_who_change_the_list_at_once_both_have_their_way(store: Store) -> None:
    def add(number: int) -> None:
        with edit_watch_list(store) as versions:
            found = versions[-1]
            versions.append(found.model_copy(update={"models": {**found.models, f"m{number}": "org/name"}}))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {*read_list(store).models} == {f"m{number}" for number in range(8)}


def test_the_list_lies_in_an_object_store_beside_the_tables() -> None:
    store = Store("memory://bucket/warehouse")
    assert read_list(store) == WatchList()
    with edit_watch_list(store) as versions:
        versions.append(WatchList(studies=("demo",)))
    assert read_list(Store("memory://bucket/warehouse")).studies == ("demo",)
    assert yaml.safe_load((store.root / "_watch.yaml").read_text())["studies"] == ["demo"]


def test_a_run_without_a_study_takes_the_watched_one_that_names_its_partition(
    store: Store, study: StudyFile, warehouse: Path
) -> None:
    assert request_for(store) == request_for(store, "smollm2-135m-instruct") == StudyRequest("demo")
    assert prunescope(store, "watch", "demo", study.path) == 0
    assert request_for(store, "tiny-a", "dense") == StudyRequest(str(study.path))
    assert request_for(store, recipe="attn-drop-1") == StudyRequest(str(study.path))
    with pytest.raises(InputError, match="computed by study 'tiny', which is not watched"):
        request_for(Store(warehouse), "tiny-a", "dense")
    asked = StudyRequest("elsewhere.yaml", recipes=("dense",))
    assert request_for(Store(warehouse), "tiny-a", "dense", {"tiny": asked}.get) == asked


def test_of_two_watched_studies_the_one_that_computed_a_partition_computes_it_again(
    study: StudyFile, warehouse: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    other = StudyFile(tmp_path / "other.yaml", tiny_folder, name="other")
    assert prunescope(Store(warehouse), "watch", other.path, study.path) == 0
    assert request_for(Store(warehouse), "tiny-a", "dense") == StudyRequest(str(study.path))
    assert request_for(Store(warehouse), "tiny-a", "wanda-50") == StudyRequest("demo")


def test_a_table_of_another_study_than_the_variant_is_computed_again_with_its_own_study(
    study: StudyFile, warehouse: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    other, store, table = StudyFile(tmp_path / "other.yaml", tiny_folder, name="other"), Store(warehouse), "generations"
    assert prunescope(store, "watch", other.path, study.path) == 0
    provenance = store.provenance(TABLES[table], "tiny-a", "dense")
    assert provenance is not None
    rows = store.read(TABLES[table], "tiny-a", "dense")
    store.write(TABLES[table], pl.DataFrame(rows), replace(provenance, study="other"), "tiny-a", "dense")
    assert request_for(store, "tiny-a", "dense") == StudyRequest(str(study.path))
    assert request_for(store, "tiny-a", "dense", table=table) == StudyRequest(str(other.path))
    assert request_for(store, "tiny-a", "dense", table="task_scores") == StudyRequest(str(study.path))


def test_run_without_a_study_does_all_that_is_watched(store: Store, study: StudyFile, warehouse: Path, capsys) -> None:
    assert prunescope(store, "run") == 2
    assert "none is watched" in capsys.readouterr().err
    assert prunescope(Store(warehouse), "watch", study.path) == 0
    assert prunescope(Store(warehouse), "run") == 0
    said = capsys.readouterr().err
    assert "everything is current" in said
    assert "older than their tables" not in said
    assert prunescope(Store(warehouse), "run", "--recipe", "wanda-50") == 2
    next((warehouse / "task_scores").rglob("*.parquet")).unlink()
    assert prunescope(Store(warehouse), "watch") == 0
    assert "questions, figures and report are older than their tables: tiny" in capsys.readouterr().err


def test_run_without_a_study_goes_on_after_one_that_cannot_be_computed(
    study: StudyFile, warehouse: Path, tmp_path: Path, capsys
) -> None:
    other = StudyFile(tmp_path / "other.yaml", Path("/gone/model"), name="other")
    assert prunescope(Store(warehouse), "watch", other.path, study.path) == 0
    capsys.readouterr()
    assert prunescope(Store(warehouse), "run") == 2
    said = capsys.readouterr().err
    assert "everything is current" in said
    assert "1 failed" in said
    assert f"{other.path}: model '/gone/model'" in said.replace("\n", " ")


def test_run_of_a_watched_study_computes_the_models_beside_it_too(
    study: StudyFile, warehouse: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    without_answers(monkeypatch)
    store = Store(warehouse)
    with edit_watch_list(store) as versions:
        versions.append(WatchList(studies=(str(study.path),), models={"mine": "/gone/model"}))
    assert prunescope(store, "run", study.path) == 2
    assert "/gone/model" in capsys.readouterr().err


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_among_the_files_of_a_model_stops_no_other_model(store: Store, drop, settled, name: str) -> None:
    piped = drop("piped")
    (piped / name).unlink()
    os.mkfifo(piped / name)
    drop("whole")
    state = load_watch_state(store)
    assert names(store) == {"demo": {"whole"}}
    assert str(piped / name) in state.refused[str(piped)]


@pytest.mark.timeout(60)
def test_a_pipe_in_a_model_that_a_study_names_is_refused_by_the_sensor(
    store: Store, study: StudyFile, tiny_folder: Path, tmp_path: Path
) -> None:
    piped = Path(shutil.copytree(tiny_folder, tmp_path / "piped"))
    (piped / "config.json").unlink()
    os.mkfifo(piped / "config.json")
    study.write(models=[{"name": "piped", "source": str(piped)}, {"name": "whole", "source": str(tiny_folder)}])
    with edit_watch_list(store) as versions:
        versions.append(WatchList(studies=(str(study.path),)))
    backlog = FreshnessScanner().scan(store)
    assert [model for _, model in backlog.due] == ["whole"]
    assert str(piped / "config.json") in backlog.watch.refused["tiny: piped"]


def test_any_error_of_a_model_in_the_folder_stops_no_other_model(
    store: Store, drop, settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("broken", "whole"):
        drop(name)

    def require_whole(model: Path) -> None:
        if model.name == "broken":
            raise ValueError("no\nvocabulary")

    monkeypatch.setattr(watch_list, "require_whole", require_whole)
    assert names(store) == {"demo": {"whole"}}
    assert [*load_watch_state(store).refused.values()] == ["ValueError: no vocabulary"]


@pytest.mark.timeout(60)
def test_a_command_says_that_it_waits_for_the_watch_list(store: Store) -> None:
    path = store.root / "_watch.lock"
    path.parent.mkdir()
    waits: list[str] = []
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def log(message: str) -> None:
            waits.append(message)
            fcntl.flock(other, fcntl.LOCK_UN)

        with edit_watch_list(store, log):
            pass
    assert waits == [f"this warehouse is in use; waiting for another process, which holds {path}"]
