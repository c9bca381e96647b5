"""No view relates two models unless it says so, so the files of others may stay closed when one is asked for."""

import copy
import math

import duckdb
import pytest

from tests.sql.handmade_whole import whole_warehouse
from warehouse.asking import Wanted, ask
from warehouse.catalogue import connect, view_sql
from warehouse.headers import parse
from warehouse.tables import TABLES

VIEWS = [name for name, view in view_sql().items() if "model" in view.columns and not parse(view.header).across]


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """The same measurements under two names; the second model's divergences are twice as large."""
    warehouse = whole_warehouse()
    for name, rows in warehouse.rows.items():
        [of_model] = {row["model"] for row in rows} or {"tiny"}
        others = [copy.deepcopy(row) | {"model": f"{of_model}-2"} for row in rows]
        for row in others:
            for column in row:
                if column in {"kl_dense_pruned_nats", "var_p_dz"}:
                    row[column] = row[column] * 2
        warehouse.rows[name] = rows + others
    root = tmp_path_factory.mktemp("two")
    for name in TABLES:
        warehouse.write(root, name)  # doubled figures may break a check, which is no matter here
    return root


def assert_same(found, wanted, view):
    """Equal but for rounding: sums add up in the order in which threads bring the rows."""
    assert len(found) == len(wanted), view
    for row, other in zip(found, wanted, strict=True):
        for value, expected in zip(row, other, strict=True):
            if isinstance(value, float) and isinstance(expected, float):
                assert math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9), view
            else:
                assert value == expected, view


@pytest.fixture(scope="module")
def unfiltered(two_models):
    """The rows of every view over both models, ordered by its key."""
    with connect(two_models) as whole:
        return {view: whole.execute(f'SELECT * FROM "{view}" ORDER BY {key_of(view)}').fetchall() for view in VIEWS}


def key_of(view):
    return ", ".join(parse(view_sql()[view].header).key) or "ALL"


def having(rows, view, name, values):
    """The rows that hold one of the values in a column."""
    place = list(view_sql()[view].columns).index(name)
    return [row for row in rows if row[place] in values]


def test_asking_for_one_model_opens_only_its_files_and_changes_no_row(two_models, unfiltered):
    models = {row[0] for row in unfiltered["variant_summary"]}
    published = {row[0] for row in unfiltered["stg_paper_reference"]}
    assert len(models) == 2
    assert not models & published
    for model in models:
        with connect(two_models, models=[model]) as part:
            assert part.execute("SELECT DISTINCT model FROM variants").fetchall() == [(model,)]
            for view in VIEWS:
                found = part.execute(f'SELECT * FROM "{view}" ORDER BY {key_of(view)}').fetchall()
                # What others published is there whatever model is asked for.
                assert_same(found, having(unfiltered[view], view, "model", {model} | published), view)


def test_filters_choose_rows_and_change_none(two_models, unfiltered):
    asked = 0
    for view in view_sql().values():
        if view.layer != "questions" or "recipe" not in view.columns or not unfiltered[view.name]:
            continue
        asked += 1
        model, recipe = (unfiltered[view.name][-1][list(view.columns).index(name)] for name in ("model", "recipe"))
        wanted = having(having(unfiltered[view.name], view.name, "model", {model}), view.name, "recipe", {recipe})
        for filters in (Wanted(variants=((model, recipe),)), Wanted(models=(model,), recipes=(recipe,))):
            found = duckdb.from_arrow(ask(two_models, view, filters)).order(key_of(view.name)).fetchall()
            assert_same(found, wanted, view.name)
    assert asked > 20
