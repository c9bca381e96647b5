"""The results page (`tests.benchmarks.results`): what it says against the views, and its files against its links."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tests.benchmarks import results
from tests.sql.built_models import scored
from tests.sql.built_whole import crowded_warehouse
from tests.sql.warehouse_builder import Handmade


def written(warehouse: Handmade, root: Path) -> tuple[str, Path]:
    """Write the page of a warehouse; return it and the folder beside it."""
    warehouse.connect(root / "warehouse").close()
    results.main(str(root / "warehouse"), root / "page")
    return (root / "page" / "RESULTS.md").read_text(), root / "page" / "results"


def section(text: str, name: str) -> str:
    """Return the part of the page under the title of a section."""
    title = next(each.title for each in results.SECTIONS if each.name == name)
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def crowded_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return written(crowded_warehouse(), tmp_path_factory.mktemp("crowded"))


def test_every_section_of_a_whole_warehouse_has_a_sentence_a_table_and_its_figures(crowded_page: tuple[str, Path]):
    text, folder = crowded_page
    assert text.count("\n## ") == len(results.SECTIONS)
    assert "Not measured" not in text
    assert "too few for a sentence" not in text
    linked = re.findall(r"\]\(results/([^)]+)\)", text)
    assert sorted(set(linked)) == sorted(path.name for path in folder.iterdir())
    pictures = [name for name in linked if name.endswith(".png")]
    for each in results.SECTIONS:
        part = section(text, each.name)
        assert pl.read_csv(folder / f"{each.name}.csv").height == part.count("\n| ") - 1
        assert all(f"(results/{figure}" in part for figure in each.figures)
    # One of each model, of `depth` one of each lens.
    assert len(pictures) == 2 * sum(len(each.figures) for each in results.SECTIONS)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_sentences_count_what_the_tables_hold(crowded_page: tuple[str, Path]):
    text, folder = crowded_page
    published = pl.read_csv(folder / "published.csv")
    less = published.filter(pl.col("kept_ours") < pl.col("kept_published")).height
    assert f"Of {published.height} published points beside ours, ours keep less in {less}." in section(
        text, "published"
    )
    quantized = pl.read_csv(folder / "quantization.csv").drop_nulls("difference_low")
    above, below = (
        quantized.filter(side).height for side in (pl.col("difference_low") > 0, pl.col("difference_high") < 0)
    )
    assert f"{above} of {quantized.height} intervals are above 0 and {below} below;" in section(text, "quantization")
    verdicts = pl.read_csv(folder / "claims.csv")["verdict"].to_list()
    counts = [verdicts.count(f"holds on {which} model") for which in ("every", "no")] + [verdicts.count("differs")]
    layers = pl.read_csv(folder / "layers.csv").sort("auc", descending=True).group_by("model").first()
    for model, sublayer, layer in layers.select("model", "sublayer", "layer").iter_rows():
        said = (
            f"- {model}: the largest area is that of {sublayer} {layer}; over depth the areas correlate by 1.00 with "
        )
        assert said in section(text, "layers")  # both models have the same shifts
    assert "Of {} claims {} hold on every model, {} on none, {} differ".format(len(verdicts), *counts) in text


def test_the_best_probe_is_named_for_each_model_left_out_of_three(tmp_path: Path):
    warehouse = Handmade()

    def losses(damage: float, source: np.random.Generator) -> tuple[float, float]:
        return damage / (1 + damage) + 0.3 * source.random(), damage / (9 + damage)

    for seed, model in enumerate(("a", "b", "c")):
        scored(warehouse.model(model), model, [0.01 * 2 ** (index + seed / 3) for index in range(8)], losses)
    text, folder = written(warehouse, tmp_path)
    rows = pl.read_csv(folder / "advice.csv")
    best = rows.sort("error_mean", "probe").group_by("model", "kind", maintain_order=True).first()
    assert set(best["n_models"]) == {2}
    assert best.height == 6
    for model, kind, count, error, probe in best.select(
        "model", "kind", "n_variants", "error_mean", "probe"
    ).iter_rows():
        of = {"generative": "writing", "non_generative": "choosing"}[kind]
        assert f"- {model}: the loss in {of} of {count} variants is predicted with a mean error of {error:.2f} " in text
        assert f"from {probe}, the best probe." in text


def test_a_warehouse_without_variants_says_that_nothing_was_measured_and_keeps_no_file_of_an_earlier_page(
    tmp_path: Path,
):
    beside = tmp_path / "page" / "results"
    beside.mkdir(parents=True)
    for name in ("old.png", "old.csv"):
        (beside / name).touch()
    text, folder = written(Handmade().model().variant("dense"), tmp_path)
    assert text.count("Not measured in this warehouse.") == len(results.SECTIONS)
    assert [path.name for path in folder.iterdir()] == ["provenance.csv"]
    assert "\ntiny,dense," in (folder / "provenance.csv").read_text().replace('"', "")


def test_an_interval_stands_in_the_column_of_its_estimate():
    rows = pa.table({"n": [1, 2], "x": [0.12345, None], "x_low": [0.1, None], "x_high": [0.2, None], "y_low": [1, 2]})
    assert results.cells(rows).to_pydict() == {"n": ["1", "2"], "x": ["0.123 [0.1, 0.2]", "–"], "y_low": ["1", "2"]}
