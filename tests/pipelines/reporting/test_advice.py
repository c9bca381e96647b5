"""Tests of advice on handmade warehouses, in which the loss of every recipe is known."""

import numpy as np
import polars as pl
import pytest

from prunescope.pipelines.reporting.advice import CHOOSING_ONLY, NOT_SAFE, SAFE, TOO_LITTLE, VERDICTS, advise
from prunescope.warehouse.catalogue.database import SQL
from tests.sql.built_models import Losses, chance, cliff, probed, scored
from tests.sql.warehouse_builder import Handmade, prepared

# Of the new model: mild, where writing is gone, where all is gone, and beyond what was ever seen.
NEW = [0.02, 0.1, 1.0, 2.0, 8.0, 50.0]
SEEN = 10 ** np.linspace(-2, 1, 10)


def advised(warehouse: Handmade, tolerance: float = 0.1) -> tuple[pl.DataFrame, str]:
    """Return the verdicts on the model `new`, and the notes on them."""
    recipes = [f"r{index}" for index in range(len(NEW))]
    with warehouse.opened() as connection:
        statement = (SQL / "comparisons" / "advise.sql").read_text("utf-8")
        rows = prepared(connection, statement, params=["new", recipes, tolerance]).pl()
        predictions = prepared(connection, "from loss_predictions where model = 'new'").pl()
        return rows, " ".join(advise(rows, predictions, tolerance))


def known(models: int, losses: Losses) -> Handmade:
    """Build a probed model beside scored ones."""
    warehouse = Handmade()
    for model in "abcd"[:models]:
        scored(warehouse, model, SEEN, losses)
    probed(warehouse, "new", NEW)
    return warehouse


def said(rows: pl.DataFrame) -> list[str]:
    """Return the verdicts in the order of `NEW`."""
    return rows.sort("recipe")["verdict"].cast(pl.String).to_list()


@pytest.fixture(scope="module")
def of_three() -> tuple[pl.DataFrame, str]:
    return advised(known(3, cliff))


def test_losses_that_follow_the_probe_give_verdicts_before_any_task_is_run(of_three: tuple[pl.DataFrame, str]) -> None:
    rows, notes = of_three
    rows = rows.sort("recipe").head(5)
    assert rows["quality"].cast(pl.String).to_list() == ["holds", "holds", "fails", "fails", "fails"]
    # No text was written, so that none is known to be alive.
    assert said(rows) == [TOO_LITTLE, TOO_LITTLE, CHOOSING_ONLY, CHOOSING_ONLY, NOT_SAFE]
    for kind in ("writing", "choosing"):
        assert set(rows[f"evidence_{kind}"].cast(pl.String)) == {"prediction"}
    for index, (writing, choosing) in enumerate([(0, 0), (0, 0), (1, 0), (1, 0), (1, 1)]):
        row = rows.row(index, named=True)
        assert row["loss_writing_low"] <= writing <= row["loss_writing_high"]
        assert row["loss_choosing_low"] <= choosing <= row["loss_choosing_high"]
    assert "from at least 3 other models" in notes


def test_texts_without_a_loop_make_a_predicted_quality_safe_and_safe_recipes_come_first() -> None:
    warehouse = known(3, cliff)
    for recipe in ("dense", *(f"r{index}" for index in range(len(NEW)))):
        for prompt in range(40):
            collapse = 5 if recipe == "r1" else None
            warehouse.generation(recipe, f"p{prompt}", collapse=collapse, token_ids=[7] * 9, model="new")
    rows, _ = advised(warehouse)

    assert said(rows)[:3] == [SAFE, CHOOSING_ONLY, CHOOSING_ONLY]
    order = [VERDICTS.index(verdict) for verdict in rows["verdict"].cast(pl.String)]
    assert order == sorted(order)
    assert rows["recipe"][0] == "r0"


def test_losses_without_a_pattern_do_not_tell_recipes_apart() -> None:
    """Half is lost on average, whatever the probe."""
    rows, _ = advised(known(4, chance))

    assert "holds" not in rows["quality"].cast(pl.String).to_list()
    assert (rows["loss_choosing_high"] - rows["loss_choosing_low"] > 0.4).all()


@pytest.mark.parametrize("models", [0, 1, 2])
def test_two_other_models_are_needed_for_a_prediction(models: int) -> None:
    rows, notes = advised(known(models, cliff))
    is_known = models >= 2

    wanted = "5 variants scored on writing and on choosing; the warehouse has"
    assert (f"{wanted} {models}." in notes) is not is_known
    assert ("prediction" in rows["evidence_writing"].cast(pl.String).to_list()) is is_known
    # One prompt and no question say nothing.
    assert is_known or set(said(rows)) == {TOO_LITTLE}


def test_a_greater_tolerance_allows_more_recipes() -> None:
    def slope(damage: float, _: np.random.Generator) -> tuple[float, float]:
        return min(1.0, damage / 10), 0.0

    warehouse = known(3, slope)
    strict, mild = (advised(warehouse, tolerance)[0].sort("recipe") for tolerance in (0.05, 0.6))

    assert (strict["quality"][2], mild["quality"][2]) == ("fails", "holds")


def test_measured_losses_come_before_predicted_ones_whatever_they_show() -> None:
    """A hundred answers show that all is lost, but not that nothing is."""
    warehouse = Handmade()
    for model in (*"abc", "new"):
        scored(warehouse, model, NEW if model == "new" else SEEN, cliff)
    rows = advised(warehouse)[0].sort("recipe")

    assert set(rows["evidence_choosing"].cast(pl.String)) == {"score"}


def test_the_notes_say_for_how_many_tokens_greedy_texts_stay_equal() -> None:
    warehouse = known(0, cliff)
    recipes = {"r0": 80, "r1": 80, "r2": 40, "r3": 40}
    steps = [row for row in warehouse.rows["decoding_steps"] if row["recipe"] not in recipes]
    warehouse.rows["decoding_steps"] = steps
    for recipe, texts in recipes.items():
        for prompt in range(texts):
            for step in range(4):
                # A fifth of r1's texts flip at step 2, half of r2's at step 1.
                flips = (recipe == "r1" and step == 2 and prompt < 16) or (recipe == "r2" and step == 1 and prompt < 20)
                warehouse.step(recipe, f"p{prompt}", step, 1.0, flips=flips, model="new")
    rows, notes = advised(warehouse)

    assert "equal the dense model's, from 80 texts: " in notes
    assert {"r0 at least 4", "r1 2 to 2", "r2 at most 1", "r3 not known"} <= set(notes.split(": ")[-1].split(", "))
    greedy = dict(rows.select("recipe", "n_greedy").rows())
    assert {recipe: greedy[recipe] for recipe in recipes} == recipes


def test_a_recipe_that_was_not_computed_is_named() -> None:
    warehouse = known(0, cliff)
    for recipe in ("dense", *(f"r{index}" for index in range(len(NEW)))):
        warehouse.generation(recipe, "p", is_correct=True, model="new")
        for index in range(10):
            sides = [[0.6, 0.4][:: 1 if index < 5 else -1]] * 2
            warehouse.options(recipe, f"c{index}", *sides, model="new")
    for table in ("variants", "decoding_steps", "option_subspace", "generations"):
        warehouse.rows[table] = [row for row in warehouse.rows[table] if row["recipe"] != "r3"]
    rows, notes = advised(warehouse)

    assert "For r3, writing, choosing or texts were not measured" in notes
    assert rows.height == len(NEW)
