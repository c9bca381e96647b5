"""Losses predicted from other models: against scipy's isotonic regression, and the refusals."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import isotonic_regression

from prunescope.warehouse.catalogue.database import connect, view_sql
from prunescope.warehouse.catalogue.question_query import RowFilter
from prunescope.warehouse.catalogue.question_query import ask as ask_warehouse
from tests.sql.built_models import chance, cliff, known, scored
from tests.sql.warehouse_builder import Ask, Handmade, Row, rows_of

NATS = {name: 10 ** np.random.default_rng(seed).uniform(-2.5, 1, 9) for seed, name in enumerate("abcd", start=1)}
KL = "kind = 'generative'"


def noisy(damage: float, source: np.random.Generator) -> tuple[float, float]:
    return damage / (1 + damage) + 0.3 * source.random(), damage / (9 + damage)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the views over no file; each test fills the marts."""
    with connect(tmp_path_factory.mktemp("none")) as connection:
        yield connection


def of(rows: list[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


class Slow:
    """The same predictions, one fit after the other, by a library."""

    def __init__(self, rows: list[Row]) -> None:
        self.points = {
            name: [(round(10 * np.log10(row["damage"])), row["loss"]) for row in of(rows, model=name)] for name in NATS
        }

    def curve(self, without: set[str]) -> tuple[np.ndarray, np.ndarray]:
        known = sorted(point for name, points in self.points.items() if name not in without for point in points)
        places = sorted({place for place, _ in known})
        heaps = [[loss for at, loss in known if at == place] for place in places]
        fit = isotonic_regression([np.mean(heap) for heap in heaps], weights=[len(heap) for heap in heaps])
        return np.array(places), fit.x

    def predicted(self, name: str, without: set[str]) -> list[float | None]:
        places, losses = self.curve(without)
        at = [np.searchsorted(places, place) for place, _ in self.points[name]]
        return [losses[index] if index < len(losses) else None for index in at]

    def half_width(self, name: str) -> float:
        widths = []
        for other in set(NATS) - {name}:
            found = zip(self.predicted(other, {name, other}), self.points[other], strict=True)
            errors = sorted(abs(loss - guess) for guess, (_, loss) in found if guess is not None)
            widths.append(errors[int(np.ceil(0.9 * len(errors))) - 1])
        return max(widths)


def test_predictions_are_isotonic_regressions_on_the_other_models(catalogue: duckdb.DuckDBPyConnection) -> None:
    known(catalogue, NATS, noisy)
    rows = rows_of(catalogue, f"select * from loss_predictions where {KL} order by recipe")
    slow = Slow(rows)
    for name in NATS:
        own = of(rows, model=name)
        for row, expected in zip(own, slow.predicted(name, {name}), strict=True):
            if expected is None:
                assert row["predicted_loss"] is row["predicted_loss_low"] is row["predicted_loss_high"] is None
            else:
                bounds = (expected, expected - row["half_width"], min(1, expected + row["half_width"]))
                assert tuple(row[f"predicted_loss{end}"] for end in ("", "_low", "_high")) == pytest.approx(bounds)
        assert [row["half_width"] for row in own] == pytest.approx([slow.half_width(name)] * 9)
        assert {(row["n_models"], row["n_variants"]) for row in own} == {(3, 27)}
    assert None in {row["predicted_loss"] for row in rows}, "nothing is known beyond the largest probe that was seen"


def test_a_variant_that_was_never_scored_is_predicted_like_one_that_was(catalogue: duckdb.DuckDBPyConnection) -> None:
    known(catalogue, NATS, noisy, unscored={"new": NATS["a"]})
    rows = rows_of(catalogue, f"select * from loss_predictions where {KL} order by recipe")
    slow, new = Slow(rows), of(rows, model="new")

    assert [row["loss"] for row in new] == [None] * 9
    assert {(row["n_models"], row["n_variants"]) for row in new} == {(4, 36)}
    assert [row["predicted_loss"] for row in new] == pytest.approx(slow.predicted("a", set()))


def test_q31_ranks_and_counts_coverage_on_models_left_out(catalogue: duckdb.DuckDBPyConnection) -> None:
    known(catalogue, NATS, noisy)
    rows = rows_of(catalogue, f"select * from loss_predictions where {KL} and model = 'b'")
    (row,) = rows_of(catalogue, f"select * from q31_prediction_quality where {KL} and model = 'b'")
    found = [row for row in rows if row["predicted_loss"] is not None]
    predicted, losses = (np.array([row[name] for row in found]) for name in ("predicted_loss", "loss"))
    inside = int(sum(abs(predicted - losses) <= rows[0]["half_width"]))
    wilson = stats.binomtest(inside, len(found)).proportion_ci(method="wilson")
    coverage = (inside / len(found), *wilson)

    assert (row["n_models"], row["n_variants"], row["n_beyond"]) == (3, len(found), 9 - len(found))
    assert row["spearman"] == pytest.approx(stats.spearmanr(predicted, losses).statistic)
    assert row["error_mean"] == pytest.approx(abs(predicted - losses).mean())
    assert tuple(row[f"coverage{end}"] for end in ("", "_low", "_high")) == pytest.approx(coverage)

    # The probe alone ranks also those that are beyond every other model's.
    damage, losses = (np.array([row[name] for row in rows]) for name in ("damage", "loss"))
    rank = stats.spearmanr(damage, losses).statistic
    half = 1.959963984540054 * np.sqrt((1 + rank**2 / 2) / (9 - 3))
    assert (row["n_scored"], row["probe_spearman"]) == (9, pytest.approx(rank))
    assert row["probe_spearman_low"] == pytest.approx(np.tanh(np.arctanh(rank) - half))
    assert row["probe_spearman_high"] == pytest.approx(np.tanh(np.arctanh(rank) + half))


def test_random_losses_get_wide_intervals_and_no_rank(catalogue: duckdb.DuckDBPyConnection) -> None:
    known(catalogue, {str(seed): 10 ** np.random.default_rng(seed).uniform(-2, 1, 20) for seed in range(5)}, chance)
    rows = rows_of(catalogue, "q31_prediction_quality")

    assert min(row["half_width"] for row in rows) > 0.3
    assert abs(np.mean([row["spearman"] for row in rows])) < 0.3
    assert np.mean([row["coverage"] for row in rows]) > 0.8


def test_one_model_is_not_predicted_from_itself(catalogue: duckdb.DuckDBPyConnection) -> None:
    known(catalogue, {"a": NATS["a"]}, cliff)
    rows = rows_of(catalogue, "q31_prediction_quality")

    assert {(row["n_models"], row["n_variants"], row["n_beyond"]) for row in rows} == {(0, 0, 0)}
    assert {row[name] for row in rows for name in ("spearman", "coverage", "error_mean", "half_width")} == {None}
    assert {row["n_scored"] for row in rows} == {9}


def test_complete_agreement_of_five_variants_is_not_certain(catalogue: duckdb.DuckDBPyConnection) -> None:
    known(catalogue, {"a": np.logspace(-2, 0, 5)}, lambda nats, _: (nats / 2, nats / 9))
    row = rows_of(catalogue, f"select * from q31_prediction_quality where {KL}")[0]

    assert (row["n_scored"], row["probe_spearman"], row["probe_spearman_high"]) == (5, 1, 1)
    assert -0.3 < row["probe_spearman_low"] < 0


def test_of_two_models_each_is_predicted_and_neither_gets_an_interval(catalogue: duckdb.DuckDBPyConnection) -> None:
    # The third has too few variants to count as a model.
    known(catalogue, {name: NATS[name][:count] for name, count in (("a", 9), ("b", 9), ("c", 4))}, cliff)
    rows = rows_of(catalogue, f"select * from q31_prediction_quality where {KL}")

    assert {row["model"]: row["n_models"] for row in rows} == {"a": 1, "b": 1, "c": 2}
    assert [row["coverage"] is None for row in rows] == [True, True, False]
    assert all(row["n_variants"] > 0 for row in rows)


def test_a_query_of_one_model_opens_the_models_that_predict_it(tmp_path: Path) -> None:
    warehouse = Handmade()
    for name in "ab":
        scored(warehouse, name, NATS[name][:5], cliff)
    view = view_sql()["q31_prediction_quality"]
    with warehouse.connect(tmp_path):
        rows = ask_warehouse(tmp_path, view, RowFilter(models=("b",))).to_pylist()

    assert {(row["model"], row["n_models"]) for row in rows} == {("b", 1)}


def test_the_influence_of_dropped_sublayers_is_a_probe_of_drops_only(ask: Ask) -> None:
    warehouse = Handmade().variant("dense").variant("drop", method="block-drop", dropped=["attn.1", "mlp.1"])
    warehouse.variant("wanda").step("wanda", "p", 0, 0.5).step("drop", "p", 0, 0.5)
    for unit, influence in (("attn", 0.25), ("mlp", 0.5), ("block", 0.625)):
        for layer in (0, 1):
            warehouse.add(
                "block_influence",
                model="tiny",
                layer=layer,
                unit=unit,
                influence=influence * layer,
                drop_order=layer + 1,
                orth_rel_mean=0.1,
                tokens=8,
                calibration_hash="c",
            )
    rows = ask(warehouse, "select * from damage_probes where probe = 'influence'")

    assert rows == [{"model": "tiny", "recipe": "drop", "probe": "influence", "damage": 0.75}]
