"""`prunescope search`: a tiny model from the command line to tables, recipes and a judgement; kills and full disks."""

import errno
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
import pytest
import yaml

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.cli.study import request_of
from prunescope.assets.planning.fingerprints import expected, find_model, search_id
from prunescope.assets.planning.steps import SEARCH_TABLES
from prunescope.assets.planning.work_plan import unfinished_folder
from prunescope.assets.runs.study_run import StudyRun
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT
from prunescope.pipelines.evaluation.search.published import published_recipes
from prunescope.pipelines.evaluation.search.run import end_search, unfinished_targets
from prunescope.pipelines.evaluation.search.whole import WholeMeasurement
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.studies import Study
from prunescope.warehouse.catalogue.queries import SUBLAYER_MILLISECONDS, SUBLAYER_WEIGHTS, query_pairs
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import Heard, StudyFile, one_thread, rows, without_answers
from tests.canary_secrets import MARK
from tests.tiny_models import SHORT_TEXT

Capture = pytest.CaptureFixture[str]
# A method whose sparsities are split between matrices, a treatment as it is, and drops.
MENU = ["wanda-20", "wanda-30", "wanda-40", "wanda-50", "magnitude-30", "drop"]
SEARCH = {
    **{"remove": [0.2], "menu": MENU, "source": SHORT_TEXT, "texts": 3, "length": 32},
    **{"prompts": 2, "new_tokens": 3, "measurements": 2},
}
KEYS: dict[str, Any] = {
    **{"recipes": ["dense"], "tasks": [], "prompts": [{"id": "open", "text": "Why is the sky blue?"}]},
    **{"measure": {"scopes": ["propagated"], "lenses": ["raw"]}, "search": SEARCH},
}
PATIENCE = 240.0


@pytest.fixture
def study(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFile:
    without_answers(monkeypatch)
    return StudyFile(tmp_path / "tiny.yaml", tiny_folder, keys=dict(KEYS))


@pytest.fixture(scope="module")
def searched_once(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, cache: Path) -> Path:
    """Search from nothing, with the recipes in a folder."""
    folder = tmp_path_factory.mktemp("searched")
    study = StudyFile(folder / "tiny.yaml", tiny_folder, keys=dict(KEYS))
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        without_answers(patch)
        options = ["--no-judge", "--warehouse", str(folder / "warehouse"), "-o", str(folder / "recipes")]
        assert run(["search", str(study.path), *options], Globals()) == 0
    return folder


@pytest.fixture
def searched(tmp_path: Path, searched_once: Path) -> Path:
    """Copy its warehouse for one test to change."""
    return shutil.copytree(searched_once / "warehouse", tmp_path / "warehouse")


def search(capsys: Capture, study: StudyFile, warehouse: Path, *options: str, code: int = 0) -> tuple[str, str]:
    with one_thread():
        found = run(["search", str(study.path), "--warehouse", str(warehouse), *options], Globals())
    shown = capsys.readouterr()
    assert found == code, shown.err
    return shown.out, shown.err


def without_items(*_: object) -> NoReturn:
    raise InputError("there is no text")


def refusing(name: str, write: Callable[..., Any]) -> Callable[..., Any]:
    """Return a writer of tables for which the disk is full where one of them is written."""

    def written(store: Store, table: Any, *values: Any, **named: Any) -> Any:
        if table.name == name:
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(store, table, *values, **named)

    return written


def trials(warehouse: Path) -> pl.DataFrame:
    return pl.DataFrame(Store(warehouse).read(TABLES["search_trials"], "tiny-a", None)).with_columns(
        pl.col(pl.Categorical).cast(pl.String)
    )


def unfinished(warehouse: Path) -> list[Path]:
    """Return the finished files of an unfinished search; a killed process leaves a temporary one beside them."""
    return sorted(unfinished_folder(Store(warehouse), "tiny-a").rglob("[!.]*.npz"))


def test_a_search_fills_both_tables_with_a_result_of_every_strategy(searched: Path, study: StudyFile) -> None:
    found, effects = trials(searched), rows(searched)["search_effects/model=tiny-a/part.parquet"]
    results = found.filter("is_result")
    assert set(results["strategy"]) == {"searched", "hidden", "random", "greedy"}
    assert (results["removed"] >= 0.2).all()
    # In 3 layers: 7 matrices alone, another treatment and the drop of 2 sublayers; and of matrices and sublayers the
    # split treatments of the search and of its control; and those around the target as they are, of which one was
    # measured in the matrices.
    assert len(effects) == 3 * (7 + 2 * 2 + 2 * 4 * (7 + 2) + 2 * 2 + 7)
    assert results["recipe_treatments_json"].null_count() == 0
    split = json.loads(results.filter(strategy="searched")["recipe_treatments_json"].item())
    assert any(place.count(".") == 2 for place in split)
    assert set(found["search"]) == set(effects["search"].to_pylist())
    assert set(found["item_ids"][0]) >= {"text-0", "text-1", "text-2"}
    assert unfinished(searched) == []
    assert run(["verify", "--warehouse", str(searched)], Globals()) == 0


def test_a_recipe_file_is_the_allocation_of_the_result(
    searched_once: Path, searched: Path, study: StudyFile, capsys: Capture
) -> None:
    [file] = (searched_once / "recipes").iterdir()
    result = trials(searched).filter(strategy="searched", is_result=True).row(0, named=True)
    entry = yaml.safe_load(file.read_text())
    assert file.stem == entry["name"] == result["recipe"]
    assert entry["treatments"] == json.loads(result["recipe_treatments_json"])

    recipe = request_of(str(study.path), [], [str(file)]).load().recipe(entry["name"])
    assert isinstance(recipe, MixedRecipe)
    assert recipe.predecessors == "dense"
    # As an entry of the study's own recipes, and printed where no folder is given.
    out, told = search(capsys, study, searched, "--no-judge", "--remove", "20")
    printed = yaml.safe_load(out[out.index("- name:") :])
    assert printed == [entry]
    study.write(recipes=["dense", *printed])
    assert request_of(str(study.path), [], []).load().recipe(entry["name"]).hash == recipe.hash
    assert "everything is current" in told
    assert "`prunescope figure allocation` and `prunescope question q35` show the search" in told
    assert "not all trials were made" not in told
    folder = unfinished_folder(Store(searched), "tiny-a") / f"search-{result['search']}"
    folder.mkdir(parents=True)
    (folder / "targets.json").write_text("[0.2]")
    assert (
        "not all trials were made; the same command goes on, with more --minutes"
        in search(capsys, study, searched, "--no-judge", "--remove", "20")[1]
    )
    # Nothing has run that a page could show.
    assert run(["serve", "--warehouse", str(searched)], Globals()) == 2
    assert "only searches have run: `prunescope search` without --no-judge" in " ".join(capsys.readouterr().err.split())


def test_a_search_from_a_start_says_what_is_brought_back_and_writes_the_recipe(
    searched: Path, study: StudyFile, tmp_path: Path, capsys: Capture
) -> None:
    before, own = trials(searched), ["--no-judge", "--start", "magnitude-50", "--put-back", "2"]
    out, told = search(capsys, study, searched, *own, "-o", str(tmp_path / "recipes"))
    assert "not all trials were made" not in told
    found = trials(searched).filter(pl.col("search") != before["search"][0])
    assert {*found["budget"]} == {"sublayers"}
    results = {row["strategy"]: row for row in found.filter("is_result").iter_rows(named=True)}
    assert results.keys() == {"searched", "random", "greedy"}
    [file] = (tmp_path / "recipes").iterdir()
    assert file.stem == results["searched"]["recipe"]
    assert file.stem.startswith("mixed-back-2-")
    recipe = request_of(str(study.path), [], [str(file)]).load().recipe(file.stem)
    assert isinstance(recipe, MixedRecipe)
    assert {*recipe.sublayers} == json.loads(results["searched"]["treatments_json"]).keys()
    # Three of the five items choose, and two are held out.
    held_out = found.filter(move="held_out").rows(named=True)
    start, after = (row["measured_nats"] for row in held_out[:2])
    assert [row["n_items"] for row in held_out] == [2] * len(held_out)
    assert {row["n_items"] for row in results.values()} == {3}
    shown = re.search(r"2 +searched +(\S+) .*\n.*2 +greedy .* 1 +2 *\n.*2 +random .* 5 +2 *\n", out)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(1 - after / start, abs=0.01)
    # Nothing is measured again, and the search by shares has kept its rows.
    assert "everything is current" in search(capsys, study, searched, *own)[1]
    search(capsys, study, searched, "--no-judge")
    assert trials(searched).filter(search=before["search"][0]).equals(before)
    assert trials(searched).filter(pl.col("search") != before["search"][0]).equals(found)
    assert unfinished(searched) == []
    assert run(["verify", "--warehouse", str(searched)], Globals()) == 0


@pytest.mark.exhaustive  # tests/pipelines/evaluation/search goes on with what is measured
def test_another_share_is_added_and_another_menu_is_another_search(
    searched: Path, study: StudyFile, capsys: Capture
) -> None:
    before = trials(searched)
    search(capsys, study, searched, "--no-judge", "--settings", "{controls: []}", "--remove", "20%")
    ladder = [f"magnitude-{percent}" for percent in (10, 20, 30, 40, 50)]
    for settings_ in (
        {"menu": ladder, "controls": []},
        {"budget": "bytes", "controls": ["random"]},
        {"menu": ["drop"], "budget": "milliseconds", "controls": []},
    ):
        search(capsys, study, searched, "--no-judge", "--settings", json.dumps(settings_))
    times = trials(searched).filter(budget="milliseconds")
    assert (times["removed"] >= 0.2).all()
    saved = query_pairs(searched, SUBLAYER_MILLISECONDS, model="tiny-a", search=times["search"][0])
    assert saved.keys() == query_pairs(searched, SUBLAYER_WEIGHTS, model="tiny-a").keys()
    assert min(saved.values()) > 0
    both = trials(searched)
    assert both.filter(search=before["search"][0]).equals(before)
    assert both["search"].n_unique() == 5
    search(capsys, study, searched, "--no-judge", "--remove", "30%", "--remove", "0.2")
    own = trials(searched).filter(search=before["search"][0])
    assert own.filter(remove=0.2).equals(before)
    assert set(own.filter("is_result")["remove"]) == {0.2, 0.3}
    assert own["trial"].to_list() == list(range(len(own)))
    later = own.filter(remove=0.3)
    assert (later["parent"].drop_nulls() > before["trial"].max()).all()
    # Back to the study's own share: nothing is measured again.
    stamp = trials(searched)
    search(capsys, study, searched, "--no-judge")
    assert trials(searched).equals(stamp)


def test_an_added_share_that_was_interrupted_goes_on_and_the_others_stay(
    searched: Path, study: StudyFile, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, measure, measured = trials(searched), WholeMeasurement.measure, list[object]()

    def counted(self: WholeMeasurement, variant: Any) -> Any:
        measured.append(variant)
        if len(measured) == 3:
            raise OSError(errno.EIO, "the disk is gone")
        return measure(self, variant)

    monkeypatch.setattr(WholeMeasurement, "measure", counted)
    shares = ["--remove", "20%", "--remove", "30%", "--no-judge"]
    search(capsys, study, searched, *shares, code=2)
    assert len(stored := unfinished(searched)) > 1
    # A finished share does not end the wait.
    _, told = search(capsys, study, searched, "--no-judge", "--remove", "20%", "--minutes", "19")
    assert "not all trials were made" not in told
    assert {*stored} <= {*unfinished(searched)}
    _, told = search(capsys, study, searched, *shares)
    assert "not all trials were made" not in told
    assert unfinished(searched) == []
    found = trials(searched)
    assert found.filter(remove=0.2).equals(before)
    assert set(found.filter("is_result")["remove"]) == {0.2, 0.3}
    # Two were in the journal.
    assert len(measured) - 1 == found.filter(remove=0.3)["treatments_json"].n_unique()


@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_share_waits_while_another_one_is_refused_cannot_be_written_or_ends(
    searched: Path, study: StudyFile, capsys: Capture, monkeypatch: pytest.MonkeyPatch, *, is_whole: bool
) -> None:
    before = trials(searched)
    loaded = request_of(str(study.path), [], []).load()
    identity = find_model(loaded, "tiny-a", SILENT).identity
    folder = unfinished_folder(Store(searched), "tiny-a") / f"search-{search_id(loaded, identity)}"
    end_search(folder, {0.3})
    with monkeypatch.context() as refused:
        refused.setattr("prunescope.pipelines.evaluation.search.run.search_items", without_items)
        search(capsys, study, searched, "--no-judge", "--remove", "25%", code=2)
    assert unfinished_targets(folder) == {0.3}
    # The share that the menu reaches was measured before the other one is refused.
    menu = "{menu: [wanda-20, wanda-30, wanda-40, wanda-50, attn-drop], controls: []}"
    shares = ["--remove", "20%", "--remove", "90%"]
    _, told = search(capsys, study, searched, "--no-judge", "--settings", menu, *shares, code=2)
    assert "the menu removes at most" in told
    assert unfinished(searched)
    if not is_whole:
        return
    # What is found counts from when it is written.
    with monkeypatch.context() as full:
        full.setattr(Store, "write", refusing("search_trials", Store.write))
        search(capsys, study, searched, "--no-judge", "--remove", "25%", code=1)
    assert unfinished_targets(folder) == {0.25, 0.3}
    search(capsys, study, searched, "--no-judge", "--remove", "25%")
    assert unfinished_targets(folder) == {0.3}
    found = trials(searched)
    assert found.filter(remove=0.2).equals(before)
    assert set(found.filter("is_result")["remove"]) == {0.2, 0.25}


def test_a_model_that_is_missing_does_not_hide_the_results_of_another(
    searched: Path, study: StudyFile, tmp_path: Path, capsys: Capture
) -> None:
    models = ["--model", f"gone={tmp_path / 'nowhere'}", "--model", f"tiny-a={study.model}"]
    out, told = search(capsys, study, searched, "--no-judge", *models, code=2)
    [entry] = yaml.safe_load(out[out.index("- name:") :])
    assert entry["name"] == trials(searched).filter(strategy="searched", is_result=True)["recipe"].item()
    assert "no such folder or file" in told


@pytest.mark.exhaustive  # a study with the found recipe, which other tests run, and views that tests/sql proves
def test_the_found_recipe_is_judged_beside_published_ones_on_the_studys_own_data(
    searched: Path, study: StudyFile, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(*arguments: Any) -> list[str]:
        return [name for name in published_recipes(*arguments) if name.startswith(("sparsegpt", "block"))]

    monkeypatch.setattr("prunescope.pipelines.evaluation.search.published.published_recipes", few)
    out, _ = search(capsys, study, searched)
    result = trials(searched).filter(strategy="searched", is_result=True).row(0, named=True)
    judged = out[out.index(f"{result['recipe']} removes {result['removed']:.1%} of the layers' parameters. On the ") :]
    assert re.search(r"kl_texts +(true|false|–) +\d", judged)
    variants = {path.parent.name.partition("=")[2] for path in (searched / "text_tokens").rglob("part.parquet")}
    percent = f"{math.ceil(1e4 * result['removed'] - 1e-6) / 100:g}" if result["removed"] > 0.205 else "20"
    assert {result["recipe"], f"sparsegpt-{percent}", "block-drop-1"} <= variants
    assert MARK.decode() not in out


@pytest.mark.exhaustive  # like the one above
@pytest.mark.parametrize("unit", ["sublayers=2", "bytes=10%"])
def test_a_recipe_from_a_start_is_judged_beside_the_start_and_published_ones(
    searched: Path, study: StudyFile, capsys: Capture, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    def few(*arguments: Any) -> list[str]:
        return [name for name in published_recipes(*arguments) if name.startswith("sparsegpt")]

    monkeypatch.setattr("prunescope.pipelines.evaluation.search.published.published_recipes", few)
    out, _ = search(capsys, study, searched, "--start", "magnitude-50", "--put-back", unit)
    result = trials(searched).filter(pl.col("recipe").str.starts_with("mixed-back")).row(0, named=True)
    does = "prunes 66.7% of the layers' sublayers" if unit == "sublayers=2" else f"removes {result['removed']:.1%} of"
    judged = out[out.index(f"{result['recipe']} {does}") :]
    assert re.search(r"kl_texts +(true|false|–) +\d", judged)
    variants = {path.parent.name.partition("=")[2] for path in (searched / "text_tokens").rglob("part.parquet")}
    assert {result["recipe"], "magnitude-50"} <= variants
    (published,) = (name for name in variants if name.startswith("sparsegpt"))
    assert 10 < float(published.removeprefix("sparsegpt-")) < 50


def test_a_study_without_the_key_has_no_search(searched: Path, study: StudyFile, capsys: Capture) -> None:
    def planned() -> set[str]:
        plan = StudyRun(request_of(str(study.path), [], []), Store(searched), Heard()).plan()
        return {table for work in plan.works if work.recipe is None for table in work.tables}

    assert planned() == set()
    study.write(search=SEARCH | {"remove": [0.3]})
    assert planned() == set(SEARCH_TABLES)
    assert run(["plan", str(study.path), "--details", "--warehouse", str(searched)], Globals()) == 0
    shown = capsys.readouterr()
    assert "search_effects, search_trials" in shown.out
    assert "not counted is the search, which begins no trial after 20 min" in " ".join(shown.err.split())
    study.keys.pop("search")
    study.write()
    assert planned() == set()


# The interrupted search above goes on, too.
@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_full_disk_or_too_short_a_time_ends_in_one_line_and_loses_nothing(
    searched_once: Path,
    study: StudyFile,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_whole: bool,
) -> None:
    warehouse, save, saved = tmp_path / "full", np.savez, []

    def full(*arguments: Any, **arrays: Any) -> None:
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(save(*arguments, **arrays))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        _, told = search(capsys, study, warehouse, "--no-judge", code=2)
    assert "the disk is full: free some space" in told.splitlines()[-1]
    assert len(kept := unfinished(warehouse)) == 2

    _, told = search(capsys, study, warehouse, "--no-judge", "--minutes", "0.000001", code=1)
    assert "minutes were over before an allocation that removes 20.0% was measured; give more" in told
    assert unfinished(warehouse) == kept
    if is_whole:
        search(capsys, study, warehouse, "--no-judge")
        assert trials(warehouse).drop("seconds").equals(trials(searched_once / "warehouse").drop("seconds"))


WRONG: list[tuple[list[str], str]] = [
    (["--remove", "0"], "--remove '0': not a share; give 20%, 20 or 0.2, above 0 and below 100 %"),
    (["--remove", "100%"], "--remove '100%': not a share"),
    (["--remove", "a fifth"], "--remove 'a fifth': not a share"),
    (["--remove", "nan"], "--remove 'nan': not a share"),
    (["--remove", "33.3%", "--remove", "0.333"], "`search.remove`: a value is listed twice"),
    (["--settings", "wanda-50"], "--settings wanda-50: not a mapping; write `{key: value}`"),
    (["--settings", "{menus: [drop]}"], "`search.menus`: is not a key here; did you mean `menu`?"),
    (["--settings", "{menu: []}"], "`search.menu`: must be a list of 1 or more"),
    (["--settings", "{menu: [lottery-50]}"], "lottery-50: 'lottery-50' is not a treatment"),
    (["--settings", "{menu: [wanda-50-owl]}"], "`search.menu`: wanda-50-owl: `ratios` are shares per layer"),
    (
        ["--settings", "{menu: [magnitude-30]}", "--remove", "50%"],
        "the menu removes at most 30.0% of the parameters, and 50.0% are asked for",
    ),
    (["--settings", "{menu: [attn-drop]}", "--remove", "90%"], "the menu removes at most"),
    (["--settings", "{objective: 'task:none'}"], "`search.objective` names task 'none', but the study's `tasks` are"),
    (["--settings", "{objective: loss}"], "`search.objective`"),
    (
        ["--settings", "{budget: milliseconds, menu: [magnitude-30]}"],
        "is milliseconds, which only drops save; add drop",
    ),
    (["--settings", "{controls: [lucky]}"], "`search.controls.0`: 'lucky' is none of 'hidden', 'random' or 'greedy'"),
    (["--start", "wanda-50"], "`start` and `put_back` belong together"),
    (["--put-back", "4"], "`start` and `put_back` belong together"),
    (["--start", "wanda-50", "--put-back", "4", "--remove", "20%"], "--remove and --start contradict each other"),
    (
        ["--start", "wanda-50", "--put-back", "4", "--settings", "{menu: [drop]}"],
        "`search`: `menu` has no use with `start`; leave it out",
    ),
    (["--start", "wanda-50", "--put-back", "half"], "`search.put_back.sublayers`: must be a number; found 'half'"),
    (["--start", "wanda-50", "--put-back", "bytes=none"], "--put-back 'none': not a share; give 20%, 20 or 0.2"),
    (
        ["--start", "wanda-50", "--put-back", "litres=5%"],
        "`search.put_back.litres`: 'litres' is none of",
    ),
    (["--start", "heads-50", "--put-back", "4"], "heads-50 has no treatment per sublayer; give a recipe of weights"),
    (
        ["--start", "wanda-50", "--put-back", "6"],
        "`search.put_back.sublayers` is 6, and the whole start takes 6: nothing",
    ),
    (["-o", "tiny.yaml"], "Invalid value for '--output'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_wrong_input_is_one_line(
    options: list[str], message: str, study: StudyFile, searched_once: Path, capsys: Capture
) -> None:
    _, told = search(capsys, study, searched_once / "warehouse", "--no-judge", *options, code=2)
    assert not unfinished(searched_once / "warehouse")
    assert message in told.splitlines()[-1]
    assert "Traceback" not in told


def test_without_a_share_anywhere_the_command_asks_for_one(study: StudyFile, tmp_path: Path, capsys: Capture) -> None:
    study.keys.pop("search")
    study.write()
    _, told = search(capsys, study, tmp_path / "none", code=2)
    assert told == ("error: --remove is missing, and the study has no `search`; give a share, such as --remove 20%\n")


def test_a_search_is_new_where_its_data_or_settings_change_and_only_then(study: StudyFile) -> None:
    def versions(**changes: Any) -> tuple[str, str]:
        before = dict(study.keys)
        study.write(**changes)
        loaded: Study = request_of(str(study.path), [], []).load()
        study.keys = before
        identity = find_model(loaded, "tiny-a", SILENT).identity
        return expected("search_trials", loaded, identity, None), search_id(loaded, identity)

    now = versions()
    assert versions(recipes=["dense", "wanda-50"], measure={"top_k": 3}) == now
    for more in ({"minutes": 3}, {"remove": [0.2, 0.3]}):  # the same search goes on
        further = versions(search=SEARCH | more)
        assert further[0] != now[0]
        assert further[1] == now[1]
    for changes in (
        {"search": SEARCH | {"menu": ["magnitude-30", "drop"]}},
        {"search": SEARCH | {"seed": 1}},
        {"search": SEARCH | {"budget": "bytes"}},
        {"prompts": [{"id": "open", "text": "Why is grass green?"}]},
        {"texts": []},
        {"calibration": {"source": "embedded", "sequences": 2, "length": 32}},
    ):
        assert not set(versions(**changes)) & set(now)
