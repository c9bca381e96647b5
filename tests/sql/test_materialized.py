"""Materialized views of a connection: the same rows, each view computed once, failures passed on to readers."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from prunescope.warehouse.catalogue.database import connect, view_sql
from prunescope.warehouse.catalogue.materialized import Materialized, read_by
from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.storage.snapshot import damage_explained
from prunescope.warehouse.tables import TABLES
from tests.sql.built_whole import whole_warehouse

VIEWS = view_sql()


def tables(connection):
    query = "SELECT table_name FROM duckdb_tables() WHERE schema_name <> 'files'"
    return {name for (name,) in connection.execute(query).fetchall()}


# A view over views is planned as a whole, which takes seconds.
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_every_materialized_view_has_the_rows_and_types_of_the_view(every):
    with whole_warehouse().opened() as connection, whole_warehouse().opened() as views:
        materialized = Materialized(connection)
        for name in [*VIEWS][::every]:
            materialized.prepare(f"FROM {name}")
            found, expected = (pl.DataFrame(each.sql(f"FROM {name}").to_arrow_table()) for each in (connection, views))
            # Views without an order may return their rows in another one.
            assert_frame_equal(found, expected, rel_tol=1e-12, check_row_order=VIEWS[name].layer == "questions")
        materialized.prepare("FROM variant_summary")
        assert "variant_summary" in tables(connection)
        assert not tables(connection) & {"decoding_at_reference", "task_pairs", "stg_variants"}, (
            "as many rows as the files"
        )


def test_only_the_views_of_a_query_are_computed_and_only_once():
    with whole_warehouse().opened() as connection:
        materialized = Materialized(connection)
        materialized.prepare("with kld_summary_too as (select 1) select * from kld_summary_too, stg_variants")
        assert tables(connection) == set()
        materialized.prepare("select (select max(n) from (select count(*) as n from paper_drops))")
        assert {"paper_drops", "variant_summary", "noise_variants"} <= tables(connection)
        assert "kld_summary" not in tables(connection)
        connection.execute("DELETE FROM paper_drops")
        for one in (materialized, Materialized(connection)):
            one.prepare("FROM paper_drops JOIN variant_summary USING (model, recipe)")
        assert connection.execute("SELECT count(*) FROM paper_drops").fetchall() == [(0,)]


def test_damage_after_the_opening_fails_the_views_that_read_it_and_no_other(tmp_path):
    whole_warehouse().connect(tmp_path).close()
    with connect(tmp_path) as connection:
        with next((tmp_path / "text_tokens").rglob("*.parquet")).open("r+b") as file:
            file.seek(4)
            file.write(bytes(200))
        materialized = Materialized(connection)
        with pytest.raises(DamagedFileError, match="text_tokens"), damage_explained(connection):
            materialized.prepare("FROM kld_summary")
        materialized.prepare("FROM variant_summary")
        assert "kld_summary" not in tables(connection)
        assert connection.execute("FROM variant_summary").fetchall()


def test_the_names_that_a_query_reads_are_found():
    query = "with a as (from variants) select (select 1 from models) from a, generations where exists (from speed)"
    assert read_by(query) & set(TABLES) == {"variants", "models", "generations", "speed"}
