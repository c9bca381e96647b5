"""Fingerprints of partitions: the changes that outdate each table, and those that do not."""

import platform
import pydoc_data.topics
import re
import shutil
import sys
from pathlib import Path

import pytest

from prunescope.assets.planning import fingerprints, freshness, steps
from prunescope.assets.planning.fingerprints import accepted, differences, expected, inputs
from prunescope.assets.planning.steps import MODEL_TABLES, SEARCH_TABLES, STEPS, TRACE_TABLES, VARIANT_TABLES
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.models.sources import ModelIdentity
from prunescope.pipelines.studies import Study, load_study, study_names
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import StudyFile

IDENTITY = ModelIdentity(weight_hash="w", tokenizer_hash="t", weight_bytes=1)


def load(study: StudyFile) -> Study:
    return StudyRequest(str(study.path)).load()


def versions(study: Study, identity: ModelIdentity = IDENTITY) -> dict[str, str]:
    found = {table: expected(table, study, identity, None) for table in MODEL_TABLES}
    for recipe in study.recipes:
        found |= {f"{table} {recipe.name}": expected(table, study, identity, recipe) for table in VARIANT_TABLES}
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name, version in after.items() if before.get(name) != version}


def of(tables: tuple[str, ...], *recipes: str) -> set[str]:
    return {f"{table} {recipe}" for table in tables for recipe in recipes}


MINE = {"name": "mine", "method": "magnitude", "sparsity": 0.5}
ALL_RECIPES = ("dense", "magnitude-50", "wanda-2of4", "attn-drop-1")


def test_the_same_study_has_the_same_fingerprints(study: StudyFile) -> None:
    assert versions(load(study)) == versions(load(study))


def test_tables_and_partitions_have_different_fingerprints(study: StudyFile) -> None:
    found = versions(load(study))
    shared = sum(
        len(tables) - 1
        for tables in (TRACE_TABLES, STEPS["sampling"].tables, STEPS["tasks"].tables, STEPS["retrieval"].tables)
    )
    # One computation writes all trace tables of a variant, one both of sampled texts, one both of its task tables, one
    # all of retrieval, and one both statistics of a model.
    assert len(set(found.values())) == len(found) - shared * len(ALL_RECIPES) - 1


def test_a_changed_parameter_outdates_its_variant_only(study: StudyFile) -> None:
    study.write(recipes=[MINE, "dense", "wanda-2of4"])
    before = versions(load(study))
    study.write(recipes=[MINE | {"sparsity": 0.4}, "dense", "wanda-2of4"])
    assert changed(before, versions(load(study))) == of(VARIANT_TABLES, "mine")


H = "[0-9a-f]{8}"


@pytest.mark.parametrize(
    ("table", "recipe", "change", "words"),
    [
        ("activation_stats", None, {"calibration": {"source": "embedded"}}, f"calibration {H}, now {H}"),
        ("activation_stats", None, {"dtype": "bfloat16"}, "dtype float32, now bfloat16"),
        ("variants", "wanda-2of4", {"calibration": {"seed": 1}}, f"calibration {H}, now {H}"),
        ("variants", "mine", {"recipes": [MINE | {"sparsity": 0.4}]}, f"recipe {H}, now {H}"),
        ("text_tokens", "mine", {"recipes": [MINE | {"sparsity": 0.4}]}, f"pruned weights {H}, now {H}"),
        ("decoding_steps", "dense", {"prompts": [{"id": "a", "kind": "open", "text": "b"}]}, f"prompts {H}, now {H}"),
        ("decoding_steps", "dense", {"generation": {"new_tokens": 5}}, f"`generation` and `measure` {H}, now {H}"),
        (
            "task_scores",
            "dense",
            {"tasks": []},
            f"harness lm_eval [0-9.]+, now none, task openbookqa {H}, now none, .*",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_the_words_about_other_inputs_name_what_changed(
    study: StudyFile, table: str, recipe: str | None, change: dict[str, object], words: str
) -> None:
    def of_study() -> dict[str, str]:
        loaded = load(study)
        return inputs(table, loaded, IDENTITY, loaded.recipe(recipe) if recipe else None)

    study.write(recipes=["dense", "wanda-2of4", MINE])
    before = of_study()
    study.write(**change)
    assert re.fullmatch(words, differences(before, of_study()))
    other = {"weight_hash": "b" * 64, "code": "2"}
    found = differences({"weight_hash": "a" * 64, "code": "1"}, other)
    assert found == "weights of the model aaaaaaaa, now bbbbbbbb, version of the code 1, now 2"


TEXT = {"id": "help", "source": "embedded", "context": 16, "max_tokens": 16}
TASK = {"name": "openbookqa", "samples": 2}
# Statistics and the recipes that read them.
OF_CALIBRATION = {"activation_stats", "block_influence"} | of(VARIANT_TABLES, "wanda-2of4", "attn-drop-1")


@pytest.mark.parametrize(
    ("change", "outdated"),
    [
        ({"prompts": [{"id": "open", "kind": "open", "text": "Why is the sky red?"}]}, of(TRACE_TABLES, *ALL_RECIPES)),
        *(
            ({"texts": [TEXT | change]}, of(("text_tokens",), *ALL_RECIPES))
            for change in ({"context": 24}, {"stride": 4}, {"max_tokens": 32}, {"source": "wikitext2"})
        ),
        *(
            ({"tasks": [TASK | change]}, of(STEPS["tasks"].tables, *ALL_RECIPES))
            for change in ({"samples": 3}, {"shots": 1}, {"seed": 2}, {"name": "arc_challenge"})
        ),
        ({"generation": {"new_tokens": 5}}, of(TRACE_TABLES, *ALL_RECIPES)),
        ({"measure": {"lenses": ["raw"]}}, of(TRACE_TABLES, *ALL_RECIPES)),
        ({"calibration": {"sequences": 3, "length": 32}}, OF_CALIBRATION),
        ({"name": "renamed"}, set()),
        ({"title": "another"}, set()),
    ],
)
def test_a_change_of_a_study_outdates_what_depends_on_it_only(
    study: StudyFile, change: dict[str, object], outdated: set[str]
) -> None:
    before = versions(load(study))
    study.write(**change)
    assert changed(before, versions(load(study))) == outdated


def test_a_changed_file_counts_as_a_changed_text_or_calibration(study: StudyFile, tmp_path: Path) -> None:
    text, calibration = tmp_path / "text.txt", tmp_path / "calibration.txt"
    for file in (text, calibration):
        file.write_text("one text")
    study.write(
        texts=[{"id": "mine", "source": str(text), "context": 16}],
        calibration={"source": str(calibration), "sequences": 2, "length": 32},
    )
    for file, outdated in ((text, of(("text_tokens",), *ALL_RECIPES)), (calibration, OF_CALIBRATION)):
        before = versions(load(study))
        file.write_text("another text")
        assert changed(before, versions(load(study))) == outdated


def test_changed_samples_and_definitions_count_as_a_changed_task(study: StudyFile, tmp_path: Path) -> None:
    data, definition, code = tmp_path / "mine.jsonl", tmp_path / "mine.yaml", tmp_path / "mine_code.py"
    data.write_text('{"query": "Q", "choices": ["a", "b"], "gold": 0}\n')
    code.write_text("def text(doc): return doc['q']\n")
    (tmp_path / "base.yaml").write_text("output_type: multiple_choice\n")
    definition.write_text("include: base.yaml\ntask: mine\ndoc_to_text: !function mine_code.text\n")
    study.write(
        tasks=[
            {"name": "openbookqa", "data": str(data)},
            {"name": "mine", "definition": str(definition), "allow_functions": True},
        ],
    )
    for path in (data, definition, code, tmp_path / "base.yaml"):
        before = versions(load(study))
        path.write_text(path.read_text() + "\n")
        assert changed(before, versions(load(study))) == of(STEPS["tasks"].tables, *ALL_RECIPES), path


def test_permission_to_run_programs_counts_where_a_task_writes_them(study: StudyFile, tmp_path: Path) -> None:
    def both() -> tuple[dict[str, str], dict[str, str]]:
        return versions(load(study)), versions(StudyRequest(str(study.path), allow_code_execution=True).load())

    without, allowed = both()
    assert without == allowed
    definition = tmp_path / "programs.yaml"
    definition.write_text("task: programs\nmetadata: {runs_code: true}\n")
    study.write(tasks=[{"name": "programs", "definition": str(definition)}])
    without, allowed = both()
    assert changed(without, allowed) == of(STEPS["tasks"].tables, *ALL_RECIPES)


def test_results_with_programs_stay_current_without_permission_to_run_them(study: StudyFile, tmp_path: Path) -> None:
    definition = tmp_path / "programs.yaml"
    definition.write_text("task: programs\nmetadata: {runs_code: true}\n")
    study.write(tasks=[{"name": "programs", "definition": str(definition)}])
    without, allowed = load(study), StudyRequest(str(study.path), allow_code_execution=True).load()
    for table in VARIANT_TABLES:
        recipe = without.recipe("magnitude-50")
        ran, did_not = (expected(table, each, IDENTITY, recipe) for each in (allowed, without))
        assert {ran, did_not} <= set(accepted(table, without, IDENTITY, recipe)), table
        assert set(accepted(table, allowed, IDENTITY, recipe)) == {ran}, table


def test_timing_settings_and_the_machine_outdate_the_speed_only(
    study: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = versions(load(study))
    monkeypatch.setattr(fingerprints, "hardware", lambda: "another machine")
    assert versions(load(study)) == found  # nothing is timed
    for runs in ([{"length": 8}], [{"length": 8}, {"length": 16}], [{"length": 8, "repeats": 3}]):
        study.write(speed=runs)
        before, found = found, versions(load(study))
        assert changed(before, found) == of(("speed",), *ALL_RECIPES)
    monkeypatch.setattr(fingerprints, "hardware", lambda: "a third machine")
    assert changed(found, versions(load(study))) == of(("speed",), *ALL_RECIPES)


def test_a_changed_sampling_outdates_sampled_texts_only(study: StudyFile) -> None:
    before = versions(load(study))
    for spec in ({}, {"top_p": 0.9}, {"top_p": 0.9, "seed": 1}):
        study.write(decoding=spec)
        before, found = versions(load(study)), before
        assert changed(found, before) == of(STEPS["sampling"].tables, *ALL_RECIPES)


# Those of data sets of the hub have their fingerprints from there.
@pytest.mark.parametrize("name", [name for name in study_names() if name not in {"paper-llama2-7b", "paper-retrieval"}])
def test_another_version_of_python_outdates_nothing_in_a_shipped_study(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = versions(load_study(name))
    monkeypatch.setattr(pydoc_data.topics, "topics", {"other": "Words of another version."})
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert versions(load_study(name)) == before


def test_another_version_of_python_outdates_a_calibration_by_its_help(
    study: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.write(calibration={"source": "embedded", "sequences": 2, "length": 32})
    before = versions(load(study))
    monkeypatch.setattr(pydoc_data.topics, "topics", {"other": "Words of another version."})
    assert "variants wanda-2of4" in changed(before, versions(load(study)))


def test_other_weights_outdate_everything(study: StudyFile) -> None:
    before = versions(load(study))
    after = versions(load(study), ModelIdentity("other", "t", 1))
    assert changed(before, after) == set(after)


def test_another_tokenizer_keeps_masks_that_need_no_calibration(study: StudyFile) -> None:
    before = versions(load(study))
    after = versions(load(study), ModelIdentity("w", "other", 1))
    kept = {
        f"{table} {recipe}" for table in ("variants", "mask_samples", "speed") for recipe in ("dense", "magnitude-50")
    }
    assert set(after) - changed(before, after) == kept


def test_a_raised_code_version_outdates_its_own_step_and_those_behind(
    study: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = versions(load(study))
    monkeypatch.setitem(steps.CODE_VERSIONS, "variants", "next")
    assert changed(before, versions(load(study))) == of(VARIANT_TABLES, *ALL_RECIPES)


@pytest.mark.parametrize("folder", ["questions", "figures", "explorer"])
def test_changed_sql_outdates_the_report_and_no_table(
    folder: str, study: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, loaded = Store(tmp_path / "warehouse"), load(study)
    tables, report = versions(loaded), freshness.report_version(store, loaded)
    explorer = freshness.explorer_version()
    changed_sql = Path(shutil.copytree(freshness.SQL, tmp_path / "sql"))
    view = next((changed_sql / folder).glob("*.sql"))
    view.write_text(view.read_text() + "\n-- another word\n")
    monkeypatch.setattr(freshness, "SQL", changed_sql)
    assert versions(loaded) == tables
    assert freshness.report_version(store, loaded) != report
    assert (freshness.explorer_version() != explorer) == (folder != "questions")


def test_other_files_of_an_external_checkpoint_outdate_its_variant_only(
    study: StudyFile, tiny_folder: Path, other_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(shutil.copytree(tiny_folder, tmp_path / "theirs"))
    study.write(recipes=["dense", "magnitude-50", {"name": "theirs", "method": "external", "source": "theirs"}])
    before = versions(load(study))  # relative to the working folder, as a model's source is
    with monkeypatch.context() as raised:
        raised.setattr("prunescope.pipelines.core.code_versions.EXTERNAL", "next")
        assert changed(before, versions(load(study))) == of(VARIANT_TABLES, "theirs")
    shutil.copy(other_folder / "model.safetensors", place)
    assert changed(before, versions(load(study))) == of(VARIANT_TABLES, "theirs")
    gguf = tmp_path / "theirs.gguf"
    gguf.write_bytes(b"not converted, only hashed")
    study.write(recipes=["dense", {"name": "theirs", "method": "external", "source": str(gguf)}])
    first = versions(load(study))
    gguf.write_bytes(b"other bytes")
    assert changed(first, versions(load(study))) == of(VARIANT_TABLES, "theirs")


@pytest.mark.parametrize(
    ("changes", "is_outdated"),
    [
        ({"search": {"remove": [0.3]}}, True),
        ({"search": {"remove": [0.2], "seed": 1}}, True),
        ({"search": {"remove": [0.2], "source": "wikitext2"}}, True),
        ({"template": "plain"}, True),  # of the search's own prompts
        ({"texts": []}, True),  # windows are drawn apart from them
        ({"tasks": []}, False),
        ({"recipes": ["dense"]}, False),
        ({"device": "cpu"}, False),
    ],
)
def test_a_search_depends_on_its_settings_and_on_what_its_items_are_drawn_from(
    study: StudyFile, changes: dict[str, object], is_outdated: bool
) -> None:
    def version() -> str:
        return expected(SEARCH_TABLES[0], load(study), IDENTITY, None)

    study.write(template="chat", search={"remove": [0.2]})
    before = version()
    study.write(**changes)
    assert (version() != before) == is_outdated
