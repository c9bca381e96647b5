"""`prunescope search`: a tiny model from the command line to tables, recipes and a judgement; kills and full disks."""

import errno
import io
import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from unittest.mock import Mock

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
Search = Callable[..., tuple[str, str]]
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


@pytest.fixture
def study(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFile:
    without_answers(monkeypatch)
    return StudyFile(tmp_path / "tiny.yaml", tiny_folder, keys=dict(KEYS))


@pytest.fixture(scope="module")
def searched_once(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, cache: Path) -> Path:
    """Search from nothing in three calls: a full disk and too short a time end in one line and lose nothing."""
    folder, save, saved = tmp_path_factory.mktemp("searched"), np.savez, []
    study = StudyFile(folder / "tiny.yaml", tiny_folder, keys=dict(KEYS))

    def full(*arguments: Any, **arrays: Any) -> None:
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(save(*arguments, **arrays))

    def call(*options: str) -> tuple[int, str, list[Path]]:
        command = ["search", str(study.path), "--no-judge", "--warehouse", str(folder / "warehouse"), *options]
        with redirect_stderr(io.StringIO()) as said, one_thread():
            code = run(command, Globals())
        return code, said.getvalue().splitlines()[-1], unfinished(folder / "warehouse")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        without_answers(patch)
        with pytest.MonkeyPatch.context() as disk:
            disk.setattr(np, "savez", full)
            code, told, kept = call()
        assert (code, len(kept)) == (2, 2)
        assert "the disk is full: free some space" in told
        code, told, still = call("--minutes", "0.000001")
        assert (code, still) == (1, kept)
        assert "minutes were over before an allocation that removes 20.0% was measured; give more" in told
        code, told, left = call("-o", str(folder / "recipes"))
        assert (code, left) == (0, []), told
    return folder


@pytest.fixture
def searched(tmp_path: Path, searched_once: Path) -> Path:
    """Copy its warehouse for one test to change."""
    return shutil.copytree(searched_once / "warehouse", tmp_path / "warehouse")


@pytest.fixture
def search(study: StudyFile, searched: Path, capsys: Capture) -> Search:
    """Return the command, without a judgement unless told otherwise; it returns output and messages."""

    def call(*options: str, code: int = 0, warehouse: Path = searched, is_judged: bool = False) -> tuple[str, str]:
        command = ["search", str(study.path), "--warehouse", str(warehouse), *options]
        with one_thread():
            found = run(command if is_judged else [*command, "--no-judge"], Globals())
        shown = capsys.readouterr()
        assert found == code, shown.err
        return shown.out, shown.err

    return call


def trials(warehouse: Path) -> pl.DataFrame:
    return pl.DataFrame(Store(warehouse).read(TABLES["search_trials"], "tiny-a", None)).with_columns(
        pl.col(pl.Categorical).cast(pl.String)
    )


def unfinished(warehouse: Path) -> list[Path]:
    """Return the finished files of an unfinished search; a killed process leaves a temporary one beside them."""
    return sorted(unfinished_folder(Store(warehouse), "tiny-a").rglob("[!.]*.npz"))


def folder_of(study: StudyFile, warehouse: Path) -> Path:
    """Return where the study's search keeps what it needs to go on."""
    loaded = request_of(str(study.path), [], []).load()
    search = search_id(loaded, find_model(loaded, "tiny-a", SILENT).identity)
    return unfinished_folder(Store(warehouse), "tiny-a") / f"search-{search}"


@pytest.mark.exhaustive  # tests/pipelines/evaluation/search compares a killed search
def test_an_interrupted_search_has_the_trials_of_another_one(
    searched_once: Path, tmp_path: Path, search: Search
) -> None:
    search(warehouse=tmp_path / "whole")
    interrupted = trials(searched_once / "warehouse").drop("seconds")
    assert interrupted.equals(trials(tmp_path / "whole").drop("seconds"))


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
    assert run(["verify", "--warehouse", str(searched)], Globals()) == 0


def test_a_recipe_file_is_the_allocation_of_the_result(
    searched_once: Path, searched: Path, study: StudyFile, search: Search, capsys: Capture
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
    out, told = search("--remove", "20")
    printed = yaml.safe_load(out[out.index("- name:") :])
    assert printed == [entry]
    study.write(recipes=["dense", *printed])
    assert request_of(str(study.path), [], []).load().recipe(entry["name"]).hash == recipe.hash
    assert "everything is current" in told
    assert "`prunescope figure allocation` and `prunescope question q35` show the search" in told
    assert "not all trials were made" not in told
    (folder := folder_of(study, searched)).mkdir(parents=True)
    (folder / "targets.json").write_text("[0.2]")
    assert "not all trials were made; the same command goes on, with more --minutes" in search("--remove", "20")[1]
    # Nothing has run that a page could show.
    assert run(["serve", "--warehouse", str(searched)], Globals()) == 2
    assert "only searches have run: `prunescope search` without --no-judge" in " ".join(capsys.readouterr().err.split())


def test_a_search_from_a_start_says_what_is_brought_back_and_writes_the_recipe(
    searched: Path, study: StudyFile, tmp_path: Path, search: Search
) -> None:
    before, own = trials(searched), ["--start", "magnitude-50", "--put-back", "2"]
    out, told = search(*own, "-o", str(tmp_path / "recipes"))
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
    assert "everything is current" in search(*own)[1]
    search()
    assert trials(searched).filter(search=before["search"][0]).equals(before)
    assert trials(searched).filter(pl.col("search") != before["search"][0]).equals(found)
    assert unfinished(searched) == []
    assert run(["verify", "--warehouse", str(searched)], Globals()) == 0


@pytest.mark.exhaustive  # tests/pipelines/evaluation/search goes on with what is measured
def test_another_menu_budget_or_control_is_another_search(searched: Path, search: Search) -> None:
    before = trials(searched)
    search("--settings", "{controls: []}", "--remove", "20%")
    ladder = [f"magnitude-{percent}" for percent in (10, 20, 30, 40, 50)]
    for keys in (
        {"menu": ladder, "controls": []},
        {"budget": "bytes", "controls": ["random"]},
        {"menu": ["drop"], "budget": "milliseconds", "controls": []},
    ):
        search("--settings", json.dumps(keys))
    times = trials(searched).filter(budget="milliseconds")
    assert (times["removed"] >= 0.2).all()
    saved = query_pairs(searched, SUBLAYER_MILLISECONDS, model="tiny-a", search=times["search"][0])
    assert saved.keys() == query_pairs(searched, SUBLAYER_WEIGHTS, model="tiny-a").keys()
    assert min(saved.values()) > 0
    both = trials(searched)
    assert both.filter(search=before["search"][0]).equals(before)
    assert both["search"].n_unique() == 5


def test_an_added_share_that_was_interrupted_goes_on_and_the_others_stay(
    searched: Path, study: StudyFile, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, measure, measured = trials(searched), WholeMeasurement.measure, list[object]()

    def counted(self: WholeMeasurement, variant: Any) -> Any:
        measured.append(variant)
        if len(measured) == 3:
            raise OSError(errno.EIO, "the disk is gone")
        return measure(self, variant)

    monkeypatch.setattr(WholeMeasurement, "measure", counted)
    shares = ["--remove", "20%", "--remove", "30%"]
    search(*shares, code=2)
    assert len(stored := unfinished(searched)) > 1
    # Neither a share that is refused nor a finished one ends the wait.
    with monkeypatch.context() as refused:
        refusal = Mock(side_effect=InputError("there is no text"))
        refused.setattr("prunescope.pipelines.evaluation.search.run.search_items", refusal)
        search("--remove", "25%", code=2)
    _, told = search("--remove", "20%", "--minutes", "19")
    assert "not all trials were made" not in told
    assert unfinished_targets(folder_of(study, searched)) == {0.3}
    assert {*stored} <= {*unfinished(searched)}
    _, told = search(*shares)
    assert "not all trials were made" not in told
    assert unfinished(searched) == []
    found = trials(searched)
    assert found.filter(remove=0.2).equals(before)
    assert set(found.filter("is_result")["remove"]) == {0.2, 0.3}
    later = found.filter(remove=0.3)
    assert found["trial"].to_list() == list(range(len(found)))
    assert (later["parent"].drop_nulls() > before["trial"].max()).all()
    # Two were in the journal.
    assert len(measured) - 1 == later["treatments_json"].n_unique()


def test_a_share_that_the_menu_reaches_is_measured_before_another_one_is_refused(
    searched: Path, search: Search
) -> None:
    menu = "{menu: [wanda-20, wanda-30, wanda-40, wanda-50, attn-drop], controls: []}"
    _, told = search("--remove", "20%", "--remove", "90%", "--settings", menu, code=2)
    assert "the menu removes at most" in told
    assert unfinished(searched)


@pytest.mark.exhaustive  # the disk is full for the tables only; the test above has one that is gone before
def test_a_share_counts_as_found_once_it_is_written(
    searched: Path, study: StudyFile, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: Store, table: Any, *values: Any, **named: Any) -> Any:
        if table.name == "search_trials":
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(store, table, *values, **named)

    before, folder, write = trials(searched), folder_of(study, searched), Store.write
    end_search(folder, {0.3})
    with monkeypatch.context() as disk:
        disk.setattr(Store, "write", full)
        search("--remove", "25%", code=1)
    assert unfinished_targets(folder) == {0.25, 0.3}
    search("--remove", "25%")
    assert unfinished_targets(folder) == {0.3}
    found = trials(searched)
    assert found.filter(remove=0.2).equals(before)
    assert set(found.filter("is_result")["remove"]) == {0.2, 0.25}


def test_a_model_that_is_missing_does_not_hide_the_results_of_another(
    searched: Path, study: StudyFile, tmp_path: Path, search: Search
) -> None:
    models = ["--model", f"gone={tmp_path / 'nowhere'}", "--model", f"tiny-a={study.model}"]
    out, told = search(*models, code=2)
    [entry] = yaml.safe_load(out[out.index("- name:") :])
    assert entry["name"] == trials(searched).filter(strategy="searched", is_result=True)["recipe"].item()
    assert "no such folder or file" in told


@pytest.mark.exhaustive  # a study with the found recipe, which other tests run, and views that tests/sql proves
@pytest.mark.parametrize("put_back", [None, "sublayers=2", "bytes=10%"])
def test_the_found_recipe_is_judged_beside_published_ones_and_its_start_on_the_studys_own_data(
    searched: Path, search: Search, monkeypatch: pytest.MonkeyPatch, put_back: str | None
) -> None:
    def few(*arguments: Any) -> list[str]:
        return [name for name in published_recipes(*arguments) if name.startswith(("sparsegpt", "block"))]

    monkeypatch.setattr("prunescope.pipelines.evaluation.search.published.published_recipes", few)
    start = ["--start", "magnitude-50", "--put-back", put_back] if put_back else []
    out, _ = search(*start, is_judged=True)
    own = pl.col("recipe").str.starts_with("mixed-back") == (put_back is not None)
    result = trials(searched).filter(own, strategy="searched", is_result=True).row(0, named=True)
    does = f"removes {result['removed']:.1%} of the layers' {'bytes' if put_back else 'parameters'}"
    does = "prunes 66.7% of the layers' sublayers" if put_back == "sublayers=2" else does
    judged = out[out.index(f"{result['recipe']} {does}. On the ") :]
    assert re.search(r"kl_texts +(true|false|–) +\d", judged)
    variants = {path.parent.name.partition("=")[2] for path in (searched / "text_tokens").rglob("part.parquet")}
    [published] = (name for name in variants if name.startswith("sparsegpt"))
    if put_back:
        assert {result["recipe"], "magnitude-50"} <= variants
        assert 10 < float(published.removeprefix("sparsegpt-")) < 50
    else:
        percent = f"{math.ceil(1e4 * result['removed'] - 1e-6) / 100:g}" if result["removed"] > 0.205 else "20"
        assert published == f"sparsegpt-{percent}"
        assert {result["recipe"], "block-drop-1"} <= variants
    assert MARK.decode() not in out


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


# `wrong_studies.yaml` has more about the key `search`.
WRONG = {
    "--remove 0": "--remove '0': not a share; give 20%, 20 or 0.2, above 0 and below 100 %",
    "--remove 100%": "--remove '100%': not a share",
    "--remove 'a fifth'": "--remove 'a fifth': not a share",
    "--remove nan": "--remove 'nan': not a share",
    "--remove 33.3% --remove 0.333": "`search.remove`: a value is listed twice",
    "--remove 1 --remove 1%": "`search.remove`: a value is listed twice",
    "--settings wanda-50": "--settings wanda-50: not a mapping; write `{key: value}`",
    "--settings '{menus: [drop]}'": "`search.menus`: is not a key here; did you mean `menu`?",
    "--settings '{menu: [magnitude-30]}' --remove 50%": "at most 30.0% of the parameters, and 50.0% are asked for",
    "--settings '{budget: milliseconds, menu: [magnitude-30]}'": "is milliseconds, which only drops save; add drop",
    "--settings '{controls: [lucky]}'": "`search.controls.0`: 'lucky' is none of 'hidden', 'random' or 'greedy'",
    "--put-back 4": "`start` and `put_back` belong together",
    "--start wanda-50 --put-back 4 --remove 20%": "--remove and --start contradict each other",
    "--start wanda-50 --put-back half": "`search.put_back.sublayers`: must be a number; found 'half'",
    "--start wanda-50 --put-back bytes=none": "--put-back 'none': not a share; give 20%, 20 or 0.2",
    "--start wanda-50 --put-back 6": "`search.put_back.sublayers` is 6, and the whole start takes 6: nothing",
    "-o tiny.yaml": "Invalid value for '--output'",
}


@pytest.mark.parametrize(("options", "message"), WRONG.items(), ids=WRONG)
def test_wrong_input_is_one_line(options: str, message: str, searched: Path, search: Search) -> None:
    _, told = search(*shlex.split(options), code=2)
    assert not unfinished(searched)
    assert message in told.splitlines()[-1]
    assert "Traceback" not in told


def test_without_a_share_anywhere_the_command_asks_for_one(study: StudyFile, search: Search) -> None:
    study.keys.pop("search")
    study.write()
    _, told = search(code=2)
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
        table, search = versions(search=SEARCH | more)
        assert (table == now[0], search == now[1]) == (False, True)
    for changes in (
        {"search": SEARCH | {"menu": ["magnitude-30", "drop"]}},
        {"search": SEARCH | {"seed": 1}},
        {"search": SEARCH | {"budget": "bytes"}},
        {"prompts": [{"id": "open", "text": "Why is grass green?"}]},
        {"texts": []},
        {"calibration": {"source": "embedded", "sequences": 2, "length": 32}},
    ):
        assert not set(versions(**changes)) & set(now)
