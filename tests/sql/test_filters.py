"""No view relates two models, so the files of other models may stay closed when one model is asked for."""

import copy

import pytest

from tests.sql.handmade_whole import whole_warehouse
from warehouse.asking import Wanted, ask
from warehouse.catalogue import connect, view_sql
from warehouse.headers import parse

VIEWS = [name for name, view in view_sql().items() if "model" in view.columns]


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
    warehouse.connect(root).close()
    return root


def test_asking_for_one_model_opens_only_its_files_and_changes_no_row(two_models):
    with connect(two_models) as whole:
        names = [name for (name,) in whole.execute("SELECT DISTINCT model FROM variants ORDER BY 1").fetchall()]
        assert len(names) == 2
        for model in names:
            with connect(two_models, models=[model]) as part:
                for view in VIEWS:
                    query = f'SELECT * FROM "{view}" WHERE model = ? ORDER BY ALL'
                    assert part.execute(query, [model]).fetchall() == whole.execute(query, [model]).fetchall(), view
                    assert part.execute(f'SELECT count(*) FROM "{view}" WHERE model <> ?', [model]).fetchall() == [(0,)]


def test_filters_choose_rows_and_change_none(two_models):
    for view in view_sql().values():
        if view.layer != "questions" or not {"model", "recipe"} <= set(view.columns):
            continue
        key = [(name, "ascending") for name in parse(view.header).key]
        rows = ask(two_models, view, Wanted()).sort_by(key)
        for model, recipe in {(row["model"], row["recipe"]) for row in rows.to_pylist()}:
            wanted = [row for row in rows.to_pylist() if (row["model"], row["recipe"]) == (model, recipe)]
            for filters in (Wanted(variants=((model, recipe),)), Wanted(models=(model,), recipes=(recipe,))):
                assert ask(two_models, view, filters).sort_by(key).to_pylist() == wanted, view.name
            break
