"""`compare` and `export` on a computed warehouse: the content of the folder, the same in every export."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.publishing import paper_export
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.warehouse.catalogue import comparison
from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.export.paper_tables import PAPER_TABLES
from tests.assets.tiny_study import RECIPES, StudyFile
from tests.warehouse.export.test_table_cells import assert_fits, compile_tex

VIEWS = {name: view for name, view in view_sql().items() if view.layer in {"marts", "questions"}}
SHORT = ["paper_variants", "q11", "options"]
# Figures of an export: in one or two widths, of several charts, and without data; `test_figure.py` draws all others.
FEW = {"hierarchy", "options", "speed"}
# All views take most of the time; those kept are of a paper, without rows, or named by tests.
KEPT = {"kld_summary", "representation_shifts", "search_front"}
LEFT_OUT = {
    name
    for name in VIEWS
    if name not in PAPER_TABLES and name not in KEPT and not name.startswith(("q01", "q11", "q13", "q24"))
}

Shell = Callable[..., str]


@pytest.fixture
def shell(computed_once: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    def call(*arguments: object, code: int = 0) -> str:
        found = run([*map(str, arguments)], Globals(warehouse=str(computed_once)))
        shown = capsys.readouterr()
        assert found == code, shown.err
        return shown.err if code else shown.out

    return call


@pytest.fixture(scope="module", params=["few", pytest.param("all", marks=pytest.mark.exhaustive)])
def exported(
    request: pytest.FixtureRequest, computed_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Export everything, or few figures and questions, which are then all that there are."""
    folder, figures, views = tmp_path_factory.mktemp("export") / "paper", dict(FIGURES), dict(VIEWS)
    with pytest.MonkeyPatch.context() as limits, pytest.MonkeyPatch.context() as patch:
        try:
            if request.param == "few":
                for name in figures.keys() - FEW:
                    del FIGURES[name]
                for name in LEFT_OUT:
                    del VIEWS[name]
                chosen = paper_export._chosen
                patch.setattr(
                    paper_export, "_chosen", lambda *asked: [name for name in chosen(*asked) if name not in LEFT_OUT]
                )
                limits.setattr("prunescope.assets.publishing.paper_export.MAX_ROWS", 20)
            assert run(["export", str(folder)], Globals(warehouse=str(computed_once))) == 0
            patch.undo()  # a test may ask for any question
            yield folder
        finally:
            for kept, whole in ((FIGURES, figures), (VIEWS, views)):
                kept.clear()
                kept.update(whole)  # in their order


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def only(*names: str) -> list[str]:
    return [part for name in names for part in ("--only", name)]


def test_every_view_and_figure_is_exported_in_every_format(exported: Path) -> None:
    files = content(exported)
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["is_complete"]
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert set(manifest["contents"]) == {*VIEWS, *FIGURES}
    assert set(PAPER_TABLES) <= VIEWS.keys()
    for name, view in VIEWS.items():
        told = manifest["contents"][name]
        assert told["is_empty"] == (told["rows"] == 0) == (told["files"] == [])
        if told["is_empty"]:
            assert not [file for file in files if file.startswith(f"{name}.")]
            continue
        assert {Path(one).suffix for one in told["files"]} >= {".parquet", ".csv"}
        if told["rows"] <= 1000:
            assert {f"{name}{suffix}" for suffix in (".tex", ".md", ".html")} <= set(files)
        assert told["sql"] == view.sql
        assert pq.read_table(exported / f"{name}.parquet").num_rows == told["rows"]
    for name in FIGURES:
        told = manifest["contents"][name]
        suffixes = {one.partition(".")[2] for one in told["files"]}
        assert suffixes == (set() if told["is_empty"] else {"vl.json", "svg", "pdf", "png"})
        assert told["is_empty"] == (told["rows"] == 0)
        assert told["sql"] == FIGURES[name].query
        assert any("-column" in one for one in told["files"]) != told["is_empty"]
    drawn = {name for name in FIGURES if manifest["contents"][name]["files"]}
    assert drawn >= {"hierarchy", "generation", "tokens", "layer_map", "masks", "options", "pareto"} & set(FIGURES)


def test_the_page_of_an_export_shows_its_figures_tables_and_methods_and_loads_nothing_else(exported: Path) -> None:
    page = (exported / "index.html").read_text(encoding="utf-8")
    linked = {unquote(one) for one in re.findall(r'(?:href|src)="([^"#]*)"', page)} - {""}
    assert linked == {path.name for path in exported.iterdir()} - {"index.html"}
    assert page.count("<img") == len([*exported.glob("*.png")])
    for name, told in json.loads((exported / "manifest.json").read_text())["contents"].items():
        assert (f"<h3>{name}</h3>" in page) == bool(told["files"])
    assert (exported / "methods.md").read_text(encoding="utf-8") in unescape(page)
    assert "<td>wanda-2of4</td>" in page
    assert "<script" not in page
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in unescape(page)


def test_the_manifest_has_the_provenance_and_no_path_of_this_machine(exported: Path, computed_once: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    assert {row["study"] for row in manifest["provenance"]} == {"tiny", "published"}
    recipes = {row["recipe"] for row in manifest["provenance"] if row["table_name"] == "variants"}
    assert recipes == set(RECIPES)
    for name, data in content(exported).items():
        assert str(computed_once).encode() not in data, name


@pytest.mark.exhaustive  # tests/warehouse/export compares bundles
def test_an_export_is_the_same_bytes_in_any_folder(exported: Path, shell: Shell, tmp_path: Path) -> None:
    shell("export", tmp_path / "one", *only(*SHORT))
    more = ("kld_summary", "representation_shifts", "q01", "q13", "hierarchy")
    shell("export", tmp_path / "two", *only(*PAPER_TABLES, *more))
    found, whole = content(tmp_path / "two"), content(exported)
    # An export leaves its own files, and none of an earlier one.
    shell("export", tmp_path / "two", *only(*SHORT))
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert {name for name in found if found[name] != whole[name]} <= {
        *("index.html", "manifest.json", "methods.md", "methods.tex", "references.bib")
    }


def test_only_takes_names_numbers_and_figures_and_replaces_an_export(
    exported: Path, shell: Shell, tmp_path: Path
) -> None:
    folder = tmp_path / "paper"
    shutil.copytree(exported, folder)
    assert shell("export", folder, *only(*SHORT)).strip() == str(folder)
    left = content(folder)
    assert {name.partition(".")[0] for name in left} == {
        *(
            "paper_variants",
            "q11_first_flip",
            "options",
            "options-column",
            "methods",
            "references",
            "index",
            "manifest",
        ),
    }
    # A file exported alone equals that of the whole export.
    before = content(exported)
    assert all(left[name] == before[name] for name in left if name.startswith(("paper", "q11", "options")))
    assert "text_tokens" not in left["methods.md"].decode()


def test_an_unknown_name_is_refused_before_anything_changes(exported: Path, shell: Shell, tmp_path: Path) -> None:
    before = content(exported)
    message = shell("export", exported, *only("q99", "models"), code=2)
    assert "no question, mart or figure q99, models" in message
    assert f"figures are {', '.join([*FIGURES][:2])}" in message
    assert "prunescope sql 'from models' -o models.parquet" in message
    assert content(exported) == before
    shell("export", tmp_path / "new", *only("q99"), code=2)
    assert not (tmp_path / "new").exists()


def test_a_large_table_is_cut_unless_all_rows_are_requested(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunescope.assets.publishing.paper_export.MAX_ROWS", 5)
    found = {}
    for name, options in (("cut", []), ("all", ["--all-rows"])):
        shell("export", tmp_path / name, *only("representation_shifts"), *options)
        told = json.loads((tmp_path / name / "manifest.json").read_text())["contents"]["representation_shifts"]
        rows = pq.read_table(tmp_path / name / "representation_shifts.parquet")
        assert (
            rows.num_rows
            == told["rows"]
            == len((tmp_path / name / "representation_shifts.csv").read_text().splitlines()) - 1
        )
        found[name] = (rows, told)
    assert found["cut"][0] == found["all"][0].slice(0, 5)
    assert [found[name][1]["is_cut"] for name in found] == [True, False]
    assert found["cut"][1]["rows_of_view"] == found["all"][1]["rows"] > 5


@pytest.mark.parametrize("name", ["paper_fits", "q05"])
def test_a_table_over_recipes_names_all_of_them_in_its_provenance(
    name: str, shell: Shell, tmp_path: Path, computed_once: Path
) -> None:
    shell("export", tmp_path / "paper", *only(name))
    manifest = json.loads((tmp_path / "paper/manifest.json").read_text())
    recipes = {row["recipe"] for row in manifest["provenance"] if row["table_name"] == "layer_transitions"}
    assert recipes == set(RECIPES)
    assert "The model was changed by" in (tmp_path / "paper/methods.md").read_text()


def test_a_study_restricts_rows_methods_and_provenance_and_names_the_calibration(
    shell: Shell, study: StudyFile, tmp_path: Path
) -> None:
    study.write(recipes=["dense", "wanda-2of4"])
    shell("export", tmp_path / "out", "--study", study.path, *only("paper_variants"))
    rows = pq.read_table(tmp_path / "out" / "paper_variants.parquet")
    assert rows["recipe"].to_pylist() == ["dense", "wanda-2of4"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {row["recipe"] for row in manifest["provenance"]} <= {None, "dense", "wanda-2of4"}
    methods = (tmp_path / "out" / "methods.md").read_text()
    assert "2 sequences of 32 tokens from `LICENSE`" in methods
    assert "magnitude" not in methods
    assert "han2015learning" not in (tmp_path / "out" / "references.bib").read_text()


def test_a_calibration_without_its_study_stays_a_hash(exported: Path) -> None:
    methods = (exported / "methods.md").read_text()
    assert "SHA-256 of its settings and contents" in methods
    assert "sequences of" not in methods


def test_a_folder_with_other_files_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    assert "choose a new folder" in shell("export", tmp_path, code=2)


def test_compare_writes_rows_in_every_format_and_labels_both_sides(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunescope.warehouse.catalogue.comparison.compare", cache(comparison.compare))
    found = json.loads(shell("compare", "magnitude-50", "tiny-a@wanda-2of4", "--format", "json"))
    kinds = {(row["measured_on"], row["statistic"]) for row in found}
    assert {("text help", "ppl"), ("text help", "kl_mean_nats"), ("prompts", "kl_mean_nats")} <= kinds
    for row in found:
        assert row["difference"] == pytest.approx(row["b"] - row["a"], abs=1e-12)
    shell("compare", "magnitude-50", "wanda-2of4", "-o", tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == len(found)
    for text in ("table", "markdown", "latex", "csv"):
        assert "share" in shell("compare", "magnitude-50", "wanda-2of4", "--format", text)


def test_compare_refuses_with_the_reason(shell: Shell) -> None:
    assert "there is no variant 'nope'" in shell("compare", "nope", "dense", code=2)
    assert "same variant" in shell("compare", "dense", "tiny-a@dense", code=2)


@pytest.mark.tex
def test_every_exported_table_compiles_in_one_document(exported: Path, tmp_path: Path) -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(exported.glob("*.tex"))}
    assert set(PAPER_TABLES) - {"paper_published"} <= {name.removesuffix(".tex") for name in texts}
    (tmp_path / "prose").mkdir()
    compile_tex(tmp_path / "prose", {"methods.tex": texts.pop("methods.tex")})
    assert_fits(compile_tex(tmp_path, texts))


@pytest.mark.tex
def test_every_exported_picture_can_be_included(exported: Path, tmp_path: Path) -> None:
    pictures = sorted(exported.glob("*.pdf"))
    for path in pictures:
        shutil.copy(path, tmp_path / path.name)
    included = "".join(f"\\includegraphics[width=5cm]{{{path.stem}}}\n\n" for path in pictures)
    compile_tex(tmp_path, {"pictures.tex": included}, packages="booktabs,graphicx")
