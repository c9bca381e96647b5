"""Filters of views: a view that relates no models needs only the files of the requested one."""

import copy
from functools import cache

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from prunescope.warehouse.catalogue.database import connect, view_sql
from prunescope.warehouse.catalogue.materialized import Materialized
from prunescope.warehouse.catalogue.question_query import RowFilter, ask
from prunescope.warehouse.catalogue.sql_process import Setup
from prunescope.warehouse.tables import TABLES
from tests.kept_processes import KeptProcesses
from tests.sql.built_whole import whole_warehouse
from tests.sql.warehouse_builder import Memory

VIEWS = [name for name, view in view_sql().items() if "model" in view.columns and "across" not in view.parts]


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """Build the same measurements under two names; the second model's divergences are twice as large."""
    warehouse = whole_warehouse()
    for name, rows in warehouse.rows.items():
        [of_model] = {row["model"] for row in rows} or {"tiny"}
        others = [copy.deepcopy(row) | {"model": f"{of_model}-2"} for row in rows]
        for row in others:
            for column in row:
                if column in {"kl_dense_pruned_nats", "var_p_dz"}:
                    row[column] = row[column] * 2
        warehouse.rows[name] = rows + others
    return warehouse


@pytest.fixture(scope="module")
def root(two_models, tmp_path_factory):
    """Write both models as files."""
    root = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # a third of the time
        for name in TABLES:
            two_models.write(root, name)  # doubled figures may break a check, which does not matter here
    return root


def assert_same(found, wanted):
    """Assert equality but for rounding: the order of a sum depends on threads."""
    assert_frame_equal(found, wanted, rel_tol=1e-6, abs_tol=1e-9)


@pytest.fixture(scope="module")
def unfiltered(two_models):
    """Return the function that gives the rows of a view over both models, ordered by its key."""
    memory = Memory()
    memory.fill(two_models, checked=False)
    with memory.connection as connection:
        tables = Materialized(connection)

        def rows(view):
            tables.prepare(f'FROM "{view}"')
            return rows_of(connection, view)

        yield cache(rows)


def rows_of(connection, view):
    return connection.sql(f'SELECT * FROM "{view}" ORDER BY {key_of(view)}').pl()


def key_of(view):
    return ", ".join(view_sql()[view].key) or "ALL"


@pytest.mark.parametrize(
    ("model", "every"),
    [("tiny-2", 4), *(pytest.param(f"tiny{of}", 1, marks=pytest.mark.exhaustive) for of in ("", "-2"))],
)
def test_a_query_of_one_model_opens_only_its_files_and_changes_no_row(root, unfiltered, model, every):
    models = {*unfiltered("variant_summary")["model"]}
    published = {*unfiltered("stg_paper_reference")["model"]}
    assert model in models
    assert len(models) == 2
    assert not models & published
    with connect(root, models=[model]) as part:
        assert part.execute("SELECT DISTINCT model FROM variants").fetchall() == [(model,)]
        tables = Materialized(part)
        for view in VIEWS[::every]:
            tables.prepare(f"FROM {view}")
            # Published numbers belong to no model of the warehouse, so a filter by model keeps them.
            wanted = unfiltered(view).filter(pl.col("model").is_in([model, *published]))
            assert_same(rows_of(part, view), wanted)


@pytest.fixture
def _one_process(monkeypatch):
    """Answer all questions about the same models in one process: each would start one of its own."""
    kept = KeptProcesses()

    def run(root, sql, parameters, *, models):
        with kept.give(Setup(str(root), models=models)) as process:
            return process.ask(sql, parameters)

    monkeypatch.setattr("prunescope.warehouse.catalogue.question_query.run_safe", run)
    yield
    kept.close()


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_filters_choose_rows_and_change_none(root, unfiltered, every):
    asked = 0
    questions = [view for view in view_sql().values() if view.layer == "questions" and "recipe" in view.columns]
    for view in questions[::every]:
        if unfiltered(view.name).is_empty():
            continue
        asked += 1
        model, recipe = unfiltered(view.name).select("model", "recipe").row(-1)
        wanted = unfiltered(view.name).filter(model=model, recipe=recipe)
        # Each kind of filter at every other view.
        filters = RowFilter(variants=((model, recipe),)) if asked % 2 else RowFilter(models=(model,), recipes=(recipe,))
        found = duckdb.from_arrow(ask(root, view, filters)).order(key_of(view.name)).pl()
        assert_same(found, wanted)
    assert asked > 20 // every
