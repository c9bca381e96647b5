"""Users' SQL reads the warehouse: what is answered, in which types, and how errors are said."""

import re

import duckdb
import pytest

from prunescope.warehouse.catalogue.database import connect, view_sql
from prunescope.warehouse.catalogue.sql_worker import answer, failure
from prunescope.warehouse.core.errors import SqlError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import put


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("safe") / "warehouse")
    for name in ("models", "variants"):
        put(store, TABLES[name])
    return store.root


@pytest.fixture(scope="module")
def locked(root):
    with connect(root, safe=True) as connection:
        yield connection


def rows(connection, sql, parameters=None, **limits):
    return answer(connection, sql, parameters, **limits)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT model FROM models",
        "select model from main.models -- a comment; and ; more",
        "/* first */ FROM models SELECT model;",
        "WITH m AS MATERIALIZED (SELECT * FROM models) SELECT model FROM m ORDER BY ALL LIMIT 1 OFFSET 0",
        "WITH RECURSIVE t(i) AS (SELECT 1 UNION SELECT i + 1 FROM t WHERE i < 1) SELECT 'tiny' AS model FROM t",
        "(SELECT model FROM models) INTERSECT (SELECT model FROM variants)",
        "SELECT DISTINCT ON (m.model) m.model FROM models m ASOF JOIN variants v ON m.model >= v.model LIMIT 100%",
        "SELECT max(model) OVER w AS model FROM models WINDOW w AS (ORDER BY layers DESC NULLS LAST)",
        "SELECT model FROM models, range(3) r(i), LATERAL (SELECT i + 1) WHERE i = 0 AND EXISTS (FROM variants)",
        "SELECT model FROM models GROUP BY CUBE (model) HAVING model IS NOT NULL",
        "SELECT COLUMNS('^model$') FROM models TABLESAMPLE 100%",
        "FROM (PIVOT variants ON method IN ('x') USING count(*) GROUP BY model) SELECT model",
        "SELECT model FROM provenance LIMIT 1",
        "SELECT list_transform([model], lambda x: x)[1] AS model FROM models",
        "SELECT DISTINCT table_name AS model FROM information_schema.columns WHERE false UNION VALUES ('tiny')",
        "SELECT 'tiny' AS model FROM duckdb_columns() WHERE table_name = 'models' LIMIT 1",
    ],
)
def test_statements_that_only_read_are_answered(locked, sql):
    assert rows(locked, sql).to_pylist() == [{"model": "tiny"}]


@pytest.mark.parametrize("sql", ["DESCRIBE models", "SUMMARIZE models", "SHOW models", "DESC SELECT * FROM models"])
def test_a_table_can_be_described(locked, sql):
    assert rows(locked, sql).num_rows == len(TABLES["models"].columns)


def test_tables_and_views_can_be_listed(locked):
    for sql in ("SHOW TABLES", "SHOW ALL TABLES", "FROM (SHOW TABLES)", "DESCRIBE", " describe ;"):
        assert {*TABLES, *view_sql(), "provenance"} == set(rows(locked, sql)["name"].to_pylist())


@pytest.mark.parametrize("explain", ["EXPLAIN", "/* why */ explain -- how\n analyze"])
def test_a_select_can_be_explained(locked, explain):
    for sql, found in (("FROM models", "parquet"), ("WITH m AS (SELECT 1 AS a) SELECT a FROM m", "projection")):
        [plan] = rows(locked, f"{explain} {sql}")["explain_value"].to_pylist()
        assert found in plan.lower()


def test_only_a_pivot_gets_the_hint_about_pivots(locked):
    for sql, is_told in (("PIVOT models ON model USING count(*)", True), ("DROP VIEW models", False)):
        with pytest.raises(SqlError) as caught:
            rows(locked, sql)
        assert ("IN (...)" in str(caught.value)) == is_told


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [("SELECT ?::INT + ? AS x", [1, 2]), ("SELECT $a AS x", {"a": 3})],
)
def test_parameters_are_values(locked, sql, parameters):
    assert rows(locked, sql, parameters).to_pylist() == [{"x": 3}]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{root}/models/x.csv'",
        "COPY (SELECT 1) TO '{root}/models/model=tiny/part.parquet'",
        "COPY (SELECT 1) TO 'warehouse://{root}/models/x.csv'",
        "EXPORT DATABASE '{root}/models/x'",
        "ATTACH '{root}/models/x.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '100GB'",
        "SET disabled_filesystems = ''",
        "SET allowed_directories = ['/']",
        "RESET lock_configuration",
    ],
)
def test_the_engine_refuses_what_statements_of_other_types_would_do(root, locked, sql):
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(duckdb.Error, match=r"disabled|locked|only reads"):
        locked.execute(sql.format(root=root)).fetchall()
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", r'^SQL: syntax error at or near "SELEC"$'),
        ("SELECT 'é',\n  FROM FROM", r'^SQL: syntax error at or near "FROM" \(line 2\)$'),
        ("SELECT kl FROM models", r'^SQL: Referenced column "kl" not found in FROM clause! Candidate bindings: '),
        ("FROM model", r'^SQL: Table with name model does not exist! Did you mean "models"\?$'),
        ("SELECT 'x'::INT", "^SQL: Could not convert string 'x' to INT32"),
        ("SELECT error('boom')", "^SQL: boom$"),
        ("SELECT ? + 1", "^SQL: Values were not provided for the following parameters"),
        ("FROM 'x.csv'", r"^SQL: only the warehouse's tables and views can be read \(see SHOW TABLES\), no files$"),
    ],
)
def test_wrong_sql_is_a_short_message_of_one_line(locked, sql, message):
    with pytest.raises(duckdb.Error) as caught:
        rows(locked, sql)
    found = failure(caught.value)
    assert found["error"] == "SqlError"
    assert re.search(message, found["message"]), found


def test_a_large_answer_is_refused(locked):
    assert locked.execute("SELECT current_setting('memory_limit')").fetchall() == [("2.0 GiB",)]
    with pytest.raises(SqlError, match="larger than 1 GiB"):
        answer(locked, "SELECT i, repeat('x', 1000) FROM range(100000000) t(i)")


def test_column_comments_can_be_read(locked):
    for sql in (
        "SELECT comment FROM duckdb_columns() WHERE table_name = 'models' AND column_name = 'model'",
        "SELECT comment FROM DUCKDB_COLUMNS() WHERE table_name = 'models' AND column_name = 'model'",
    ):
        assert rows(locked, sql).to_pylist() == [{"comment": TABLES["models"].columns[0].comment()}]


def test_an_open_connection_returns_the_first_rows_and_stays_usable(locked):
    for count in (0, 1, 2047, 2048, 2049):
        assert rows(locked, "SELECT i FROM range(10000000) t(i)", rows=count)["i"].to_pylist() == list(range(count))
    assert rows(locked, "SELECT i FROM range(3) t(i)", rows=5).num_rows == 3
    with pytest.raises(SqlError, match="larger than 1 MiB"):
        rows(locked, "SELECT repeat('x', 1000) FROM range(10000)", size=1 << 20)
    with pytest.raises(SqlError, match="only SELECT"):
        rows(locked, "CREATE TABLE mine AS SELECT 1")
    assert rows(locked, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_nothing_but_rows_reaches_standard_output(root):
    """DuckDB would draw a progress bar there."""
    with connect(root) as connection:
        assert connection.sql("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]
