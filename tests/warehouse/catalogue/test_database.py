"""The catalogue's tables and views over any contents of a warehouse."""

import math
import re
from datetime import UTC, datetime

import duckdb
import polars as pl
import pyarrow as pa
import pytest

import prunescope
from prunescope.warehouse.catalogue import database
from prunescope.warehouse.catalogue.database import SQL, build_file, connect, view_sql
from prunescope.warehouse.core.errors import CatalogueError, DamagedFileWarning
from prunescope.warehouse.schema.table import sql_type
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import put, rows_of

SAFE = pytest.mark.parametrize("safe", [False, True])


def columns(connection, name):
    return [(row[0], row[1]) for row in connection.execute(f'DESCRIBE "{name}"').fetchall()]


@SAFE
@pytest.mark.parametrize("is_filled", [False, True])
def test_every_table_has_its_columns_and_types_with_and_without_files(store, fill, safe, is_filled):
    if is_filled:
        fill(store, "tiny", "wanda-50")
    with connect(store.root, safe=safe) as connection:
        for table in TABLES.values():
            assert columns(connection, table.name) == [(c.name, sql_type(c.type)) for c in table.columns]
            rows = connection.execute(f"SELECT count(*) FROM {table.name}").fetchall()
            assert (rows != [(0,)]) == is_filled
        assert bool(connection.execute("FROM provenance").fetchall()) == is_filled


def test_two_partitions_are_one_table(store, fill):
    fill(store, "tiny", "wanda-50")
    fill(store, "tiny", "dense")
    with prunescope.open(store.root) as connection:
        rows = connection.execute("SELECT DISTINCT model, recipe FROM generations ORDER BY recipe").fetchall()
    assert rows == [("tiny", "dense"), ("tiny", "wanda-50")]


def test_names_and_roots_may_contain_quotes_and_wildcards(tmp_path):
    table = TABLES["variants"]
    for root in ("a'b", "a[b]*?", "ü {x} %41"):
        store = Store(tmp_path / root)
        model = "o'brien/[x]*?\n\u00e9"
        put(store, table, model)
        for safe in (False, True):
            with connect(store.root, safe=safe) as connection:
                assert connection.execute("SELECT model FROM variants").fetchall() == [(model,)]
                assert connection.execute("SELECT model, table_name FROM provenance").fetchall() == [
                    (model, "variants")
                ]


@SAFE
def test_provenance_is_a_view_with_one_row_per_file(store, safe):
    table = TABLES["variants"]
    put(store, table, rows=rows_of(table).with_columns(sparsity=pl.lit(math.nan)))
    with connect(store.root, safe=safe) as connection:
        cursor = connection.execute("SELECT * FROM provenance")
        [row] = [dict(zip([d[0] for d in cursor.description], row, strict=True)) for row in cursor.fetchall()]
    assert row.pop("violations") == ["finite: 1 rows, such as sparsity = nan at model=tiny, recipe=wanda-50"]
    path = store.path(table, "tiny", "wanda-50")
    footer = read_footer(path)
    assert row == {
        "rows": 1,
        "bytes": path.stat().st_size,
        "content_hash": footer.content_hash,
        "table_name": "variants",
        "path": str(path),
        "model": "tiny",
        "recipe": "wanda-50",
        "fingerprint": "f" * 64,
        "study": "demo",
        "code_version": "0.1.0",
        "device": "cpu",
        "dtype": "float32",
        "seed": 0,
        "seconds": 1.5,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "inputs_json": '{"recipe_hash":"b","weight_hash":"a"}',
        "libraries_json": '{"torch":"2.9.0"}',
    }


def test_comments_come_from_the_tables_and_the_headers(tmp_path):
    with connect(tmp_path) as connection:
        shown = "schema_name = 'main' AND NOT internal"
        views = dict(connection.execute(f"SELECT view_name, comment FROM duckdb_views() WHERE {shown}").fetchall())
        comments = connection.execute("SELECT table_name, column_name, comment FROM duckdb_columns()").fetchall()
    assert all(views[table.name] == table.grain for table in TABLES.values())
    assert {view.name: view.header for view in view_sql().values()}.items() <= views.items()
    assert all(views.values())
    expected = {(table.name, c.name, c.comment()) for table in TABLES.values() for c in table.columns}
    assert expected <= set(comments)


LONG = "long" * 60


@pytest.mark.parametrize("recipe", ["wanda-50", LONG])
def test_a_damaged_file_is_named_at_opening_and_left_out_of_every_answer(store, fill, recipe):
    fill(store, "tiny", "a")
    fill(store, "tiny", recipe)
    path = store.path(TABLES["generations"], "tiny", recipe)
    path.write_bytes(path.read_bytes()[:-20])
    named = rf"^{re.escape(str(path))} is damaged \(.*\); run its study again, or move it away$"
    with pytest.warns(DamagedFileWarning, match=named):
        connection = connect(store.root)
    with connection:
        for table in ("variants", "decoding_steps"):
            assert connection.sql(f"SELECT DISTINCT recipe FROM {table} ORDER BY ALL").fetchall() == [("a",), (recipe,)]
        for query in ("generations", "provenance WHERE table_name = 'generations'"):
            assert connection.sql(f"SELECT DISTINCT recipe FROM {query}").fetchall() == [("a",)]
        assert connection.sql("FROM q11_first_flip") is not None


def test_a_view_does_not_see_variables_of_the_program(store):
    nowhere = pa.table({"x": [1]})  # noqa: F841 - what must not be found
    with connect(store.root) as connection, pytest.raises(duckdb.CatalogException, match="nowhere"):
        connection.execute("SELECT * FROM nowhere")


def test_a_catalogue_file_answers_from_another_folder(store, fill, tmp_path, monkeypatch):
    fill(store, "tiny", "wanda-50")
    build_file(store.root, tmp_path / "catalogue.duckdb")
    fill(store, "tiny", "dense")
    build_file(store.root, tmp_path / "catalogue.duckdb")
    monkeypatch.chdir("/")
    with duckdb.connect(tmp_path / "catalogue.duckdb", read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM variants").fetchall() == [(2,)]
        partitions = sum(2 if table.partitioning == "variant" else 1 for table in TABLES.values())
        assert connection.execute("SELECT count(*) FROM provenance").fetchall() == [(partitions,)]
        assert len(columns(connection, "models")) == len(TABLES["models"].columns)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["catalogue.duckdb"]


def test_views_are_created_after_their_sources():
    seen = {*TABLES, "provenance"}
    for name, view in view_sql().items():
        assert set(view.depends_on) <= seen
        assert view.path.name == f"{name}.sql"
        assert view.path.is_relative_to(SQL / view.layer)
        seen.add(name)


def folder_of(tmp_path, **files):
    for place, sql in files.items():
        layer, _, name = place.partition("__")
        (tmp_path / layer).mkdir(exist_ok=True)
        (tmp_path / layer / f"{name}.sql").write_text(sql, encoding="utf-8")
    return tmp_path


def test_dependencies_are_found_below_ctes_subqueries_and_unions(tmp_path):
    folder = folder_of(
        tmp_path,
        questions__a="""-- What it is.
        -- Why.

        with models as (select * from main.variants), b as (select * from b)
        select *, (select max(layer) from block_influence) as deepest
        from models, range(3), unnest([1]) as u
        where model in (select model from generations where exists (select 1 from top_tokens as t))
        union all select * from z""",
        marts__b="select 1 as x -- not a header",
        marts__z="/* no header */ select x from b",
    )
    views = view_sql(folder)
    assert views["a"].depends_on == ("b", "block_influence", "generations", "top_tokens", "variants", "z")
    assert views["a"].header == "What it is.\nWhy."
    assert views["b"].header == ""
    assert [name for name, view in views.items() if view.layer != "staging"] == ["b", "z", "a"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"marts__a": "select * from b", "marts__b": "select * from a"},
            r"marts/[ab]\.sql reads itself: \w -> \w -> \w",
        ),
        ({"marts__a": "select * from a"}, r"marts/a\.sql reads itself"),
        ({"marts__a": "select from where"}, r"marts/a\.sql: "),
        ({"marts__a": "select 1; select 2"}, r"marts/a\.sql must hold one SELECT"),
        ({"marts__a": "drop table models"}, r"marts/a\.sql must hold one SELECT"),
        ({"marts__a": "-- nothing"}, r"marts/a\.sql must hold one SELECT"),
        ({"marts__a": "select 1", "questions__a": "select 1"}, r"another table or view is named a"),
        ({"marts__models": "select 1"}, r"another table or view is named models"),
    ],
)
def test_an_invalid_view_file_is_named(tmp_path, files, message):
    with pytest.raises(CatalogueError, match=message):
        view_sql(folder_of(tmp_path, **files))


@pytest.mark.parametrize("sql", ["select nope from models", "select * from nope"])
def test_a_view_that_duckdb_refuses_names_its_file(tmp_path, monkeypatch, sql):
    folder = folder_of(tmp_path, marts__a=sql)
    monkeypatch.setattr("prunescope.warehouse.catalogue.database.SQL", folder)
    with pytest.raises(CatalogueError, match=r"marts/a\.sql: .*nope"):
        connect(tmp_path / "warehouse")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "catalogues"


@pytest.fixture
def built(monkeypatch):
    """Return the templates that were built."""
    build, files = database._build_template, []
    monkeypatch.setattr(
        database, "_build_template", lambda file, *given, **named: files.append(file) or build(file, *given, **named)
    )
    return files


def test_the_views_are_built_once_for_a_version_of_the_sql(tmp_path, monkeypatch, cache, built):
    views = tmp_path / "sql"
    views.mkdir()
    monkeypatch.setattr(database, "SQL", folder_of(views, marts__a="select 1 as x"))
    for _ in range(2):
        with connect(tmp_path / "none") as connection:
            assert connection.execute("FROM a").fetchall() == [(1,)]
    with connect(tmp_path / "none", safe=True) as connection:
        assert connection.execute("FROM a").fetchall() == [(1,)]
    assert len(built) == len(list(cache.iterdir())) == 1
    folder_of(views, marts__a="select 2 as x")
    with connect(tmp_path / "none") as connection:
        assert connection.execute("FROM a").fetchall() == [(2,)]
    assert len(built) == 2


def test_old_versions_leave_the_cache(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(database, "_TEMPLATES", 2)
    monkeypatch.setattr(database, "SQL", folder_of(tmp_path, marts__a="select 1 as x"))
    found = []
    for x in range(4):
        folder_of(tmp_path, marts__a=f"select {x} as x")
        connect(tmp_path / "none").close()
        found.append(set(cache.iterdir()))
    assert [len(each) for each in found] == [1, 2, 2, 2]
    assert not found[0] & found[3], "the oldest go first"


def test_without_a_writable_cache_the_views_are_built_for_the_process(tmp_path, monkeypatch, built):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(database, "SQL", folder_of(tmp_path, marts__a="select 1 as x"))
    for _ in range(2):
        with connect(tmp_path / "none") as connection:
            assert connection.execute("FROM a").fetchall() == [(1,)]
    assert len(built) == 1


def test_a_cached_catalogue_that_cannot_be_read_is_named(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(database, "SQL", folder_of(tmp_path, marts__a="select 1 as x"))
    connect(tmp_path / "none").close()
    [file] = cache.iterdir()
    file.write_bytes(b"no database")
    with pytest.raises(CatalogueError, match=rf"^{re.escape(str(file))}: .*; delete it, and it is built again"):
        connect(tmp_path / "none")
