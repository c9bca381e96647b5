"""The results page (`tests.benchmarks.results`): what it says against the views, and its files against its links."""

import re
from pathlib import Path

import duckdb
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
    results.main(root / "page", str(root / "warehouse"))
    return (root / "page" / "RESULTS.md").read_text(), root / "page" / "results"


def section(text: str, name: str) -> str:
    """Return the part of the page under the title of a section."""
    title = next(each.title for each in results.SECTIONS if each.name == name)
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures of a page empty, in tests of its text and tables: drawing takes most of the time."""
    monkeypatch.setattr(results, "picture", lambda *_args, **_names: b"")


@pytest.mark.usefixtures("undrawn")
def test_a_page_of_models_from_two_warehouses_equals_that_of_one_warehouse_with_both(tmp_path: Path):
    def measured(*names: str) -> Handmade:
        warehouse = Handmade()
        for name, seed in {"a": 1, "b": 2, "c": 3}.items():
            if name in names:
                damages = [0.01 * 2 ** (index + seed / 3) for index in range(8)]
                scored(warehouse.model(name), name, damages, lambda damage, source: (damage / (1 + damage), 0.5))
        return warehouse

    both, _ = written(measured("a", "b", "c"), tmp_path / "whole")
    # The rows of the model b are measured twice; the second time replaces the first.
    for number, names in enumerate(("ab", "bc")):
        measured(*names).connect(tmp_path / f"warehouse{number}").close()
        results.main(tmp_path / "page", str(tmp_path / f"warehouse{number}"))
    assert (tmp_path / "page" / "RESULTS.md").read_text() == both
    for file in (tmp_path / "whole" / "page" / "results").glob("*.csv"):
        if file.stem != "provenance":
            assert file.read_bytes() == (tmp_path / "page" / "results" / file.name).read_bytes(), file.name
    results.main(tmp_path / "page")  # from the kept rows alone
    assert (tmp_path / "page" / "RESULTS.md").read_text() == both


@pytest.fixture(scope="module")
def crowded_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    warehouse = crowded_warehouse()
    repaired = {"recipe": "attn-drop-1+affine", "facts_json": '{"repair": {}}'}
    for name, rows in warehouse.rows.items():
        # A third of the KL, and right written answers.
        kl = {"kl_dense_pruned_nats"} if name == "decoding_steps" else set[str]()
        for row in [row for row in rows if row.get("recipe") == "attn-drop-1"]:
            new = {key: value for key, value in repaired.items() if key in row}
            new |= {key: row[key] / 3 for key in kl}
            if name in {"task_samples", "task_scores"} and row["task"] == "maths":
                new |= {"is_correct": True} if name == "task_samples" else {"value": 1.0}
            rows.append(row | new)
    return written(warehouse, tmp_path_factory.mktemp("crowded"))


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
    # One of each model, of `depth` one of each lens; `losses` has the models beside each other.
    assert len(pictures) == 2 * sum(len(each.figures) for each in results.SECTIONS) - 1
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def said(name: str, answer: pl.DataFrame) -> str | None:
    """Return the sentence of a section over rows of its table alone."""
    with duckdb.connect() as connection:
        connection.register("answer", answer.to_arrow())
        sentence = next(each.sentence for each in results.SECTIONS if each.name == name)
        return next((text for (text,) in connection.execute(sentence).fetchall()), None)


def test_sentences_count_what_the_tables_hold():
    kept = pl.DataFrame({"kept_published": [0.5, 0.5, 0.5, 0.9], "kept_ours": [0.4, 0.5, 0.6, 0.1]})
    assert said("published", kept) == "Among 4 published points next to ours, ours keep less in 2."
    ends = pl.DataFrame(
        [(0.1, 0.3), (-0.1, 0.05), (-0.3, -0.1), (-0.2, -0.1), (-0.5, -0.4), (None, None)],
        schema=["difference_low", "difference_high"],
        orient="row",
    )
    assert str(said("quantization", ends)).startswith("1 of 5 intervals are above 0 and 3 below;")
    verdicts = {"holds on every model": 1, "holds on no model": 2, "differs": 3, "open": 4}
    rows = pl.DataFrame({"verdict": [verdict for verdict, count in verdicts.items() for _ in range(count)]})
    assert str(said("claims", rows)).startswith(
        "Among 10 claims, 1 hold on every model, 2 on none, 3 differ between models;"
    )
    tasks = {"model": ["b", "b", "a"], "parameters": [5e8, 5e8, 1.35e8], "task": ["arc", "boolq", "arc"]}
    assert said("dense", pl.DataFrame({**tasks, "kind": ["non_generative"] * 3})) == (
        "a has 135 million parameters, b has 500 million parameters. Answered by choosing: arc, boolq. "
        "Answered by writing: nothing."
    )
    losses = {
        "kl_unrepaired_nats": [0.2, 0.2, None, 0.2],
        "kl_nats": [0.1, 0.3, 0.1, 0.1],
        "loss_unrepaired": [0.5, 0.5, 0.5, 0.9],
        "loss": [0.3, 0.7, 0.55, 0.1],
    }
    kinds = ["generative"] * 3 + ["non_generative"]
    assert said("repairs", pl.DataFrame({"model": ["m"] * 4, "kind": kinds, **losses})) == (
        "- m: by point estimates, a repair lowers the KL of 1 of 2 variants, and the loss in writing of 1 of 3; "
        "`prunescope compare` pairs their answers."
    )
    assert {said(name, frame.clear()) for name, frame in (("published", kept), ("quantization", ends))} == {None}


def test_a_repaired_variant_stands_beside_the_same_one_without_the_repair(crowded_page: tuple[str, Path]):
    rows = pl.read_csv(crowded_page[1] / "repairs.csv")
    assert rows.select("recipe", "kind").unique().height == rows.height / rows["model"].n_unique() == 2
    assert set(rows["recipe"]) == {"attn-drop-1+affine"}
    assert rows["kl_nats"].to_list() == pytest.approx((rows["kl_unrepaired_nats"] / 3).to_list())
    better = dict(rows.group_by("kind").agg((pl.col("loss") < pl.col("loss_unrepaired")).all()).iter_rows())
    assert better == {"generative": True, "non_generative": False}
    told = "a repair lowers the KL of 1 of 1 variants, and the loss in writing of 1 of 1;"
    assert told in section(crowded_page[0], "repairs")


def test_the_sentence_about_layers_names_the_best_and_compares_the_models(crowded_page: tuple[str, Path]):
    text, folder = crowded_page
    layers = pl.read_csv(folder / "layers.csv").sort("auc", descending=True).group_by("model").first()
    for model, sublayer, layer in layers.select("model", "sublayer", "layer").iter_rows():
        begins = (
            f"- {model}: the largest area is that of {sublayer} {layer}; over depth the areas correlate by 1.00 with "
        )
        assert begins in section(text, "layers")  # both models have the same shifts


@pytest.mark.usefixtures("undrawn")
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
    assert sorted(path.name for path in folder.iterdir()) == ["provenance.csv", "rows"]
    assert "\ntiny,dense," in (folder / "provenance.csv").read_text().replace('"', "")


def test_an_interval_stands_in_the_column_of_its_estimate():
    rows = pa.table({"n": [1, 2], "x": [0.12345, None], "x_low": [0.1, None], "x_high": [0.2, None], "y_low": [1, 2]})
    assert results.cells(rows).to_pydict() == {"n": ["1", "2"], "x": ["0.123 [0.1, 0.2]", "–"], "y_low": ["1", "2"]}
