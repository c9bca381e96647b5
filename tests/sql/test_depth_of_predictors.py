"""Predictors of spikes by relative depth (q42), against numpy's interpolation of means over variants."""

from collections.abc import Iterator, Mapping, Sequence

import duckdb
import numpy as np
import polars as pl
import pytest

from prunescope.warehouse.catalogue.database import connect
from tests.sql.warehouse_builder import Row, rows_of

LAYERS = {"one": 5, "three": 4, "two": 3}
SHARED = ("magnitude-50", "wanda-50")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the views over no file; each test fills those that the question reads."""
    with connect(tmp_path_factory.mktemp("none")) as connection:
        yield connection


def answer(model: str, recipe: str, layer: int, sublayer: str) -> Row:
    """Return a row of spike_predictors whose numbers depend on all of its key; its interval is not symmetric."""
    chance = np.random.default_rng([ord(character) for character in f"{model}{recipe}{layer}{sublayer}"])
    auc = float(chance.uniform(0.3, 0.9))
    return {
        "model": model, "recipe": recipe, "lens": "normed", "sublayer": sublayer, "layer": layer, "n_prompts": 6,
        "auc": auc, "auc_low": auc - float(chance.uniform(0.01, 0.2)),
        "auc_high": auc + float(chance.uniform(0.01, 0.1)),
        "top_decile_var_p_dz": float(10 ** chance.uniform(-3, 0)),
    }  # fmt: skip


def answers(recipes: Mapping[str, Sequence[str]]) -> list[Row]:
    return [
        answer(model, recipe, layer, sublayer)
        for model, names in recipes.items()
        for recipe in names
        for layer in range(LAYERS[model])
        for sublayer in ("attn", "mlp")
    ]


def asked(connection: duckdb.DuckDBPyConnection, rows: list[Row], noise: str = "noise-bfloat16") -> list[Row]:
    """Answer the question over predictors in any order."""
    variants = sorted({(row["model"], row["recipe"]) for row in rows if row["recipe"] != noise})
    frames = {
        "spike_predictors": pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=1),
        "pruned_variants": pl.DataFrame(variants, schema=["model", "recipe"], orient="row"),
        "stg_models": pl.DataFrame([{"model": model, "layers": layers} for model, layers in LAYERS.items()]),
    }
    for name, frame in frames.items():
        connection.register(f"built_{name}", frame.to_arrow())
        connection.execute(f"create or replace view {name} as select * from built_{name}")
    return rows_of(connection, "select * from q42_depth_of_predictors")


def curve(rows: list[Row], model: str, sublayer: str, column: str, logarithmic: bool = False) -> np.ndarray:
    """Return means over variants by layer."""
    values = np.array(
        [
            [row[column] for row in rows if (row["model"], row["sublayer"], row["layer"]) == (model, sublayer, layer)]
            for layer in range(LAYERS[model])
        ]
    )
    return np.log(values).mean(axis=1) if logarithmic else values.mean(axis=1)


def test_means_over_variants_are_compared_at_the_same_depth_of_all_other_models(catalogue: duckdb.DuckDBPyConnection):
    given = answers(dict.fromkeys(LAYERS, SHARED))
    rows = asked(catalogue, given)
    assert len(rows) == 2 * sum(LAYERS.values())
    for row in rows:
        model, sublayer, layer, depth = (row[name] for name in ("model", "sublayer", "layer", "relative_depth"))
        others = [other for other in LAYERS if other != model]

        def elsewhere(column: str, logarithmic: bool = False, depth=depth, others=others, sublayer=sublayer) -> float:
            curves = [curve(given, other, sublayer, column, logarithmic) for other in others]
            return float(np.mean([np.interp(depth, np.linspace(0, 1, len(each)), each) for each in curves]))

        auc, low, high = (curve(given, model, sublayer, name)[layer] for name in ("auc", "auc_low", "auc_high"))
        variance = curve(given, model, sublayer, "top_decile_var_p_dz", logarithmic=True)[layer]
        expected = {
            "relative_depth": layer / (LAYERS[model] - 1),
            "recipes": "magnitude-50, wanda-50",
            "auc": auc,
            "auc_low": low,
            "auc_high": high,
            "top_decile_var_p_dz": np.exp(variance),
            "auc_elsewhere": elsewhere("auc"),
            "var_p_dz_ratio": np.exp(variance - elsewhere("top_decile_var_p_dz", logarithmic=True)),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_a_sublayer_is_among_the_best_of_its_model_unless_another_is_surely_better(
    catalogue: duckdb.DuckDBPyConnection,
):
    given = answers(dict.fromkeys(("one", "two"), SHARED))
    rows = asked(catalogue, given)
    best = {}
    for row in rows:
        largest = max(other["auc_low"] for other in rows if other["model"] == row["model"])
        best[row["model"], row["sublayer"], row["layer"]] = row["auc_high"] >= largest
        assert row["is_among_best"] == best[row["model"], row["sublayer"], row["layer"]]
    assert 0 < sum(best.values()) < len(rows)
    # Layers 0, 2 and 4 of five stand where layers 0, 1 and 2 of three do; layer 1 stands between two.
    for row in rows:
        if row["model"] == "one":
            ends = [best["two", row["sublayer"], place // 2] for place in (row["layer"], row["layer"] + 1)]
            assert row["best_elsewhere"] == pytest.approx(np.mean(ends))


def test_only_variants_with_every_sublayer_count_and_of_these_the_recipes_of_most_models(
    catalogue: duckdb.DuckDBPyConnection,
):
    own, drop, noise = "sparsegpt-50", "attn-drop-1", "noise-bfloat16"
    recipes = {"one": ["wanda-50", own, drop, noise], "two": ["wanda-50", drop, noise], "three": ["awq-4bit", own]}
    given = answers(recipes)
    partly = [row for row in given if row["recipe"] != drop or row["layer"] == 1]
    unjudged = [row | {"auc": None} if (row["model"], row["recipe"]) == ("three", own) else row for row in partly]
    counted, without = (
        {(row["model"], row["recipes"]) for row in asked(catalogue, each)} for each in (partly, unjudged)
    )
    assert counted == {("one", f"{own}, wanda-50"), ("two", "wanda-50"), ("three", own)}
    assert without == {("one", "wanda-50"), ("two", "wanda-50"), ("three", "awq-4bit")}


def test_one_model_is_compared_with_none_and_a_variant_without_an_interval_leaves_none(
    catalogue: duckdb.DuckDBPyConnection,
):
    given = answers({"two": SHARED})
    given[0] |= {"auc_low": None, "auc_high": None}
    rows = asked(catalogue, given)
    compared = ("auc_elsewhere", "best_elsewhere", "var_p_dz_ratio")
    assert {row[name] for row in rows for name in compared} == {None}
    without = [(row["layer"], row["sublayer"]) for row in rows if row["auc_low"] is None]
    assert without == [(given[0]["layer"], given[0]["sublayer"])]
    assert all(row["auc"] is not None for row in rows)
