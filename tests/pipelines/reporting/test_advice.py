"""Tests of verdicts on handmade warehouses, in which the loss of every recipe is known."""

from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import polars as pl
import pytest

from prunescope.pipelines.reporting.advice import (
    BROKEN,
    CHOOSING_ONLY,
    NOT_JUDGED,
    SAFE,
    Advice,
    _by_rule,
    _verdict,
    advise,
    published_kl_nats,
)
from prunescope.warehouse.catalogue.database import connect
from tests.sql.built_models import Losses, chance, cliff, known, probed, scored
from tests.sql.warehouse_builder import Handmade

# Of the new model: mild, where writing is gone, where all is gone, and beyond what was ever seen.
NEW = [0.02, 0.1, 1.0, 2.0, 8.0, 50.0]
SEEN = 10 ** np.linspace(-2, 1, 10)
# No interval crosses a bound.
PROBES = {
    "kl_step0_nats_low": 0.1, "kl_step0_nats_high": 0.3, "top1_change": 0.05, "top1_change_low": 0.01,
    "top1_change_high": 0.09, "questions": 8, "options_changed": 0.0, "options_changed_low": 0.0,
    "options_changed_high": 0.32,
}  # fmt: skip


@pytest.fixture(scope="module")
def of_tables() -> Advice:
    """Write a warehouse of three scored models and a probed one, and return its catalogue."""
    warehouse = Handmade()
    for model in "abc":
        scored(warehouse, model, SEEN, cliff)
    probed(warehouse, "new", NEW)
    with warehouse.opened() as connection:
        variants = connection.sql("from variant_verdict where model = 'new' and recipe <> 'dense'").to_arrow_table()
        return advise(pl.DataFrame(variants), predictions(connection), 0.1)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Return the views without any file; each test replaces marts."""
    with connect(tmp_path_factory.mktemp("none")) as connection:
        yield connection


def predictions(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    return pl.DataFrame(connection.sql("from loss_predictions where model = 'new'").to_arrow_table())


def summary(nats: Sequence[float | None], **changes: object) -> pl.DataFrame:
    """Return rows of variant_verdict with the columns that matter."""
    row = {"parameters_removed_share": 0.1, **PROBES} | changes
    return pl.DataFrame([{"recipe": f"r{index}", "kl_step0_nats": kl, **row} for index, kl in enumerate(nats)])


def advised(connection: duckdb.DuckDBPyConnection, models: int, losses: Losses, tolerance: float = 0.1) -> Advice:
    known(connection, {f"m{seed}": SEEN for seed in range(models)}, losses, unscored={"new": NEW})
    return advise(summary(NEW), predictions(connection), tolerance)


def by_recipe(advice: Advice) -> dict[str, dict[str, object]]:
    return {row["recipe"]: row for row in advice.rows.iter_rows(named=True)}


def test_losses_that_follow_the_probe_give_right_and_certain_verdicts(of_tables: Advice) -> None:
    rows = by_recipe(of_tables)
    assert [rows[f"r{index}"]["verdict"] for index in range(5)] == [SAFE, SAFE, CHOOSING_ONLY, CHOOSING_ONLY, BROKEN]
    for index, (writing, choosing) in enumerate([(0, 0), (0, 0), (1, 0), (1, 0), (1, 1)]):
        row = rows[f"r{index}"]
        assert row["basis"] == "prediction"
        assert row["is_certain"]
        assert row["predicted_loss_low_generative"] <= writing <= row["predicted_loss_high_generative"]
        assert row["predicted_loss_low_non_generative"] <= choosing <= row["predicted_loss_high_non_generative"]
        assert row["loss_generative"] is None
    assert "3 other models" in " ".join(of_tables.notes)


def test_safe_recipes_come_first_with_their_probe(of_tables: Advice) -> None:
    assert of_tables.rows["recipe"].to_list()[:2] == ["r0", "r1"]
    assert of_tables.rows["verdict"].to_list()[-1] == BROKEN
    # Of the probes that tell as much, the first by name; KL is the same at both tokens.
    row = by_recipe(of_tables)["r2"]
    assert row["probe"] in {"kl_mean", "kl_step0", "var_p_step0", "one_minus_cos_h_step0"}
    assert row["damage"] == pytest.approx({"var_p_step0": 2.0, "one_minus_cos_h_step0": 0.001}.get(row["probe"], 1.0))


def test_a_probe_out_of_range_is_judged_by_the_rule(of_tables: Advice) -> None:
    row = by_recipe(of_tables)["r5"]
    # top1_change is a share and hardly ever beyond, but it says nothing about the rest: its interval is wide.
    if row["basis"] == "rule":
        assert "r5" in " ".join(of_tables.notes)
    else:
        assert row["probe"] == "top1_change"
    assert row["verdict"] == BROKEN


def test_losses_without_a_pattern_give_no_certain_verdict(catalogue: duckdb.DuckDBPyConnection) -> None:
    predicted = advised(catalogue, 4, chance).rows.filter(basis="prediction")

    assert predicted.height == 5
    assert not predicted["is_certain"].any()
    assert (predicted["predicted_loss_high_generative"] - predicted["predicted_loss_low_generative"] > 0.4).all()


def test_only_values_above_the_range_count_as_out_of_range(catalogue: duckdb.DuckDBPyConnection) -> None:
    known(catalogue, {f"m{seed}": SEEN for seed in range(3)}, cliff, unscored={"new": NEW})
    variants = pl.concat(
        [summary(NEW), summary([None]).with_columns(recipe=pl.lit("unprobed"))], how="vertical_relaxed"
    )
    notes = advise(variants, predictions(catalogue), 0.1).notes

    assert "more damage than any model had before, so by the rule: r5" in notes
    assert "without a probe that predicts both losses, so by the rule: unprobed" in notes


@pytest.mark.parametrize("models", [0, 1, 2])
def test_too_few_models_leave_the_papers_rule_without_calibration(
    catalogue: duckdb.DuckDBPyConnection, models: int
) -> None:
    advice = advised(catalogue, models, cliff)
    notes, is_known = " ".join(advice.notes), models >= 2

    assert (f"too little data to predict losses: {models} other model" in notes) is not is_known
    assert "claims no calibration" in notes
    assert advice.rows.filter(basis="rule").height == (1 if is_known else 6)
    assert advice.rows["predicted_loss_generative"].null_count() == (1 if is_known else 6)


BEYOND_KL = {"kl_step0_nats": 0.7, "kl_step0_nats_low": 0.65, "kl_step0_nats_high": 0.75}
HALF = {"options_changed": 0.5, "options_changed_low": 0.22, "options_changed_high": 0.78}
ALL_OF_EIGHT = {"options_changed": 1.0, "options_changed_low": 0.68, "options_changed_high": 1.0}
ONE_OF_ONE = {"questions": 1, "options_changed": 1.0, "options_changed_low": 0.21, "options_changed_high": 1.0}
NONE_OF_TWO = {"questions": 2, "options_changed_high": 0.66}


@pytest.mark.parametrize(
    ("changes", "verdict", "probe", "is_certain"),
    [
        ({}, SAFE, "top1_change", True),
        (BEYOND_KL, CHOOSING_ONLY, "kl_step0", True),
        ({"kl_step0_nats": 0.6}, CHOOSING_ONLY, "kl_step0", False),
        ({"kl_step0_nats_high": 0.6}, SAFE, "top1_change", False),
        # Below five prompts KL may be anything.
        ({"kl_step0_nats_low": None, "kl_step0_nats_high": None}, SAFE, "top1_change", False),
        (BEYOND_KL | {"kl_step0_nats_low": None, "kl_step0_nats_high": None}, CHOOSING_ONLY, "kl_step0", False),
        ({"kl_step0_nats_low": None, "kl_step0_nats_high": None} | ALL_OF_EIGHT, BROKEN, "options_changed", True),
        ({"top1_change": 0.2, "top1_change_low": 0.15, "top1_change_high": 0.25}, CHOOSING_ONLY, "top1_change", True),
        ({"top1_change_high": 0.11}, SAFE, "top1_change", False),
        (HALF, BROKEN, "options_changed", False),
        ({"options_changed_high": 0.5}, SAFE, "top1_change", False),
        (ALL_OF_EIGHT, BROKEN, "options_changed", True),
        (ONE_OF_ONE, NOT_JUDGED, None, None),
        (BEYOND_KL | NONE_OF_TWO, NOT_JUDGED, None, None),
        (NONE_OF_TWO, SAFE, "top1_change", False),
        ({"questions": 0, "options_changed": None}, NOT_JUDGED, None, None),
        ({"kl_step0_nats": None, "top1_change": None}, NOT_JUDGED, None, None),
    ],
)
def test_the_rule_applies_its_three_conditions_and_names_open_intervals(
    catalogue: duckdb.DuckDBPyConnection,
    changes: dict[str, object],
    verdict: str,
    probe: str | None,
    is_certain: bool | None,
) -> None:
    known(catalogue, {}, cliff, unscored={"new": NEW})
    advice = advise(
        summary([0.2]).with_columns(**{k: pl.lit(v) for k, v in changes.items()}), predictions(catalogue), 0.1
    )
    [row] = advice.rows.iter_rows(named=True)

    assert (row["verdict"], row["probe"], row["is_certain"]) == (verdict, probe, is_certain)
    if probe == "options_changed":
        assert [row["damage_low"], row["damage_high"]] == [
            changes["options_changed_low"],
            changes["options_changed_high"],
        ]
    assert any("not judged" in line for line in advice.notes) == (verdict == NOT_JUDGED)


def test_a_greater_tolerance_allows_more_recipes(catalogue: duckdb.DuckDBPyConnection) -> None:
    def slope(damage: float, _: np.random.Generator) -> tuple[float, float]:
        return min(1.0, damage / 10), 0.0

    strict, mild = (by_recipe(advised(catalogue, 3, slope, tolerance))["r2"] for tolerance in (0.05, 0.5))

    assert (strict["verdict"], mild["verdict"]) == (CHOOSING_ONLY, SAFE)


def test_choosing_that_loses_less_than_half_is_not_broken(
    catalogue: duckdb.DuckDBPyConnection,
) -> None:
    def dulled(damage: float, _: np.random.Generator) -> tuple[float, float]:
        return 0.0, min(1.0, damage / 4)

    rows = by_recipe(advised(catalogue, 3, dulled))

    assert [rows[f"r{index}"]["verdict"] for index in range(5)] == [SAFE, SAFE, CHOOSING_ONLY, BROKEN, BROKEN]
    assert "between them, non-generative only" in " ".join(advised(catalogue, 0, dulled).notes)


def test_measured_losses_are_listed_beside_predicted_ones(catalogue: duckdb.DuckDBPyConnection) -> None:
    known(catalogue, {"a": SEEN, "b": SEEN, "new": NEW}, cliff)
    rows = by_recipe(advise(summary(NEW), predictions(catalogue), 0.1))

    assert [(rows[f"r{at}"]["loss_generative"], rows[f"r{at}"]["loss_non_generative"]) for at in (0, 2, 4)] == [
        (0.0, 0.0),
        (1.0, 0.0),
        (1.0, 1.0),
    ]


def test_measured_losses_that_contradict_the_prediction_are_named(catalogue: duckdb.DuckDBPyConnection) -> None:
    """Prefer agreement of both kinds to right answers in choosing alone."""
    known(catalogue, {"new": NEW}, cliff)
    found = predictions(catalogue)
    right = found.filter(pl.col("kind") == "non_generative").with_columns(measure=pl.lit("score"), loss=pl.lit(2.25))
    own = found.with_columns(measure=pl.lit("agreement"))
    advice = advise(summary([0.02, 0.1, 0.2]), pl.concat([right, own]), 0.1)
    rows, notes = by_recipe(advice), " ".join(advice.notes)
    assert [rows[f"r{at}"]["verdict"] for at in range(3)] == [SAFE] * 3
    assert [rows[f"r{at}"]["loss_generative"] for at in range(3)] == [0.0, 0.0, 1.0]
    assert "another verdict, which counts more: r2;" in notes


def test_predicted_losses_are_judged_by_the_rule_of_the_view(catalogue):
    losses = [-0.1, 0.0, 0.05, 0.1, 0.100001, 0.2, 0.499999, 0.5, 0.6, 1.0]
    for tolerance in (0.0, 0.1, 0.3, 0.5, 0.7):
        for choice in losses:
            for generation in losses:
                query = "select verdict_by_losses($1, $2, $3)"
                [(rule,)] = catalogue.execute(query, [choice, generation, tolerance]).fetchall()
                assert _verdict(choice, generation, tolerance) == rule, (choice, generation, tolerance)
    for changed in (0.0, 0.25, 0.5, 1.0):
        for kl in (0.0, 0.3, published_kl_nats() - 1e-9, published_kl_nats(), 3.0):
            for top1 in (0.0, 0.1, 0.2):
                probes = {"kl_step0_nats": kl, "kl_step0_nats_low": kl, "kl_step0_nats_high": kl, "questions": 8}
                row = probes | {f"{name}{end}": value for end in ("", "_low", "_high")
                                for name, value in (("options_changed", changed), ("top1_change", top1))}  # fmt: skip
                query = "select verdict_by_prompts($1, $2, $3, 0.1)"
                [(rule,)] = catalogue.execute(query, [changed, kl, top1]).fetchall()
                assert _by_rule(row, 0.1)["verdict"] == rule, (changed, kl, top1)
