"""The explorer's documents over a real catalogue: pairs of variants have the numbers of `prunescope compare`."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pytest
from dagster import materialize

from prunescope.assets.defs.answer_assets import figure_assets, figure_key, report
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.publishing.explorer_data import documents
from prunescope.pipelines.reporting.charts.registry import FIGURES, Drawing, Figure
from prunescope.pipelines.reporting.explorer import study_documents as module
from prunescope.pipelines.reporting.explorer.page import embedded
from prunescope.pipelines.reporting.explorer.study_documents import Documents
from prunescope.warehouse.catalogue.comparison import compare
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import StudyFile
from tests.sql.built_whole import whole_warehouse

FIGURE = FIGURES["options"]
RECIPES = {"dense", "wanda-50", "wanda-2of4", "attn-drop-1", "mlp-drop-1", "rtn-4bit", "wanda-50-c4", "mixed-40"}
File = dict[str, Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def made(root: Path) -> Iterator[tuple[Documents, File]]:
    """Return documents without figures, which are drawn elsewhere, and all of them in a file."""
    with pytest.MonkeyPatch.context() as patch, whole_warehouse().connect(root) as connection:
        patch.setattr(module, "FIGURES", {})
        patch.setattr(module, "BATCH_SIZE", 14)
        found = documents("whole", connection)
        yield found, found.within()


def rows_of(document: File, statement: str) -> list[dict[str, Any]]:
    [table] = [table for table in document["tables"] if table["sql"]["key"] == statement]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


# The command takes its time for each of the 28 pairs.
@pytest.mark.parametrize("every", [54, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_pairs_of_a_file_have_the_numbers_of_the_command(root: Path, made: tuple[Documents, File], every: int) -> None:
    compared = {name: [unquote(id_) for id_ in name.split("/")[1:]] for name in made[1] if name.startswith("pair/")}
    assert {frozenset(ids) for ids in compared.values()} == {
        frozenset((f"tiny@{a}", f"tiny@{b}")) for a, b in combinations(RECIPES, 2)
    }
    for name, ids in list(compared.items())[::every]:
        pair, found = made[1][name], compare(root, *ids)
        assert pair["missing"] == list(found.missing)
        expected = {(row["measured_on"], row["temperature"], row["statistic"]): row for row in found.rows.to_pylist()}
        told = [*rows_of(pair, "compare/tokens"), *rows_of(pair, "compare/tasks")]
        keys = {(row["measured_on"], row.get("temperature"), row["statistic"]): row for row in told}
        assert keys.keys() >= {key for key, row in expected.items() if row["difference_se"] is not None}
        # Percentiles have no paired error and are left to the command.
        assert not {statistic for _, _, statistic in keys} & {"kl_median_nats", "kl_p99_nats", "kl_max_nats"}
        for key, row in keys.items():
            assert row == {
                column: value if isinstance(value, str | None) else pytest.approx(value, rel=1e-5, abs=1e-12)
                for column, value in expected[key].items()
                if column in row
            }


def test_pairs_take_at_most_a_quarter_of_a_file_which_says_what_it_leaves_out(
    made: tuple[Documents, File], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, whole = made
    sizes = {name: module._size(document) for name, document in whole.items() if name != "index"}
    pairs = sum(size for name, size in sizes.items() if name.startswith("pair/"))
    room = len(embedded(whole["index"])) + module._NOTES_BYTES
    room += sum(size for name, size in sizes.items() if not name.startswith(("pair/", "trace/")))
    found = source.within(room + pairs)
    assert 0 < sum(sizes[name] for name in found if name.startswith("pair/")) <= pairs / 4
    assert any(name.startswith("trace/") for name in found)
    assert "of 28 paired comparisons" in found["index"]["notes"][0]
    monkeypatch.setattr(module, "MAX_PAIRS", 2)
    near = source.within()
    assert sum(name.startswith("pair/") for name in near) == 2
    assert "far from each other by median KL" in near["index"]["notes"][0]


@pytest.mark.parametrize(
    ("others", "is_written_meanwhile"),
    [
        (set(), False),
        *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in ((set(), True), ({"magnitude-50"}, False))),
    ],
    ids=["alone", "changed", "with others"],
)
def test_a_run_draws_a_figure_once_until_tables_change(
    warehouse: Path, study: StudyFile, monkeypatch: pytest.MonkeyPatch, others: set[str], is_written_meanwhile: bool
) -> None:
    drawn: list[set[str]] = []
    draw_all = Figure.draw_all

    def drawing(figure: Figure, frame: pl.DataFrame) -> Iterator[Drawing]:
        drawn.append(set(frame["recipe"]))
        if is_written_meanwhile:
            Store(warehouse).path(TABLES["text_tokens"], "tiny-a", "magnitude-50").unlink(missing_ok=True)
        return draw_all(figure, frame)

    monkeypatch.setattr(module, "FIGURES", {FIGURE.name: FIGURE})
    monkeypatch.setattr(Figure, "draw_all", drawing)
    everything = {"attn-drop-1", "magnitude-50", "wanda-2of4"}
    study.write(recipes=["dense", *sorted(everything - others)])
    [asset] = [asset for asset in figure_assets() if asset.key == figure_key(FIGURE.name)]
    given = {"study": StudyResource(study=str(study.path)), "warehouse": WarehouseResource(root=str(warehouse))}
    assert materialize([asset, report], resources=given).success
    assert drawn == [everything, *([everything - others] if others or is_written_meanwhile else [])]


def test_a_run_may_open_the_catalogue_of_its_study_repeatedly(warehouse: Path, study: StudyFile) -> None:
    chosen = StudyResource(study=str(study.path)).request(Store(warehouse)).load()
    resource, counted = WarehouseResource(root=str(warehouse)), "SELECT count(*) AS n FROM variant_summary"
    everywhere = resource.ask(counted).item()
    for _ in range(2):
        with resource.only(chosen) as (_, ask, _):
            assert ask(counted).item() == everywhere
