"""No view relates two models unless it says so, so the files of others may stay closed when one is asked for."""

import copy
import math
from contextlib import ExitStack

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


def test_asking_for_one_model_opens_only_its_files_and_changes_no_row(two_models):
    with ExitStack() as stack:
        whole = stack.enter_context(connect(two_models))
        names = [name for (name,) in whole.execute("SELECT DISTINCT model FROM variants ORDER BY 1").fetchall()]
        assert len(names) == 2
        parts = [stack.enter_context(connect(two_models, models=[model])) for model in names]
        for view in VIEWS:
            order = ", ".join(parse(view_sql()[view].header).key) or "ALL"
            query = f'SELECT model, * FROM "{view}" ORDER BY {order}'
            wanted = whole.execute(query).fetchall()
            for model, part in zip(names, parts, strict=True):
                assert_same(part.execute(query).fetchall(), [row for row in wanted if row[0] == model], view)


def test_filters_choose_rows_and_change_none(two_models):
    for view in view_sql().values():
        if view.layer != "questions" or not {"model", "recipe"} <= set(view.columns):
            continue
        key = [(name, "ascending") for name in parse(view.header).key]
        rows = ask(two_models, view, Wanted()).sort_by(key).to_pylist()
        if rows:
            model, recipe = rows[-1]["model"], rows[-1]["recipe"]
            wanted = [tuple(row.values()) for row in rows if (row["model"], row["recipe"]) == (model, recipe)]
            for filters in (Wanted(variants=((model, recipe),)), Wanted(models=(model,), recipes=(recipe,))):
                found = ask(two_models, view, filters).sort_by(key).to_pylist()
                assert_same([tuple(row.values()) for row in found], wanted, view.name)
