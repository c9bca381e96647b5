"""A user's SQL reads the warehouse and nothing else; the refusal names the rule."""

import re
import threading

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunescope.warehouse.catalogue.database import connect, view_sql
from prunescope.warehouse.catalogue.safe_sql import answer, check
from prunescope.warehouse.core.errors import SqlError, UnsafeSqlError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.examples import examples
from tests.warehouse.attacks import attacks


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    from tests.warehouse.conftest import provenance_of, rows_of

    store = Store(tmp_path_factory.mktemp("safe") / "warehouse")
    for name, recipe in (("models", None), ("variants", "wanda-50")):
        store.write(TABLES[name], rows_of(TABLES[name], "tiny", recipe), provenance_of("tiny", recipe), "tiny", recipe)
    return store.root


@pytest.fixture(scope="module")
def locked(root):
    with connect(root, safe=True) as connection:
        yield connection


def rows(connection, sql, parameters=None, **limits):
    return pa.Table.from_batches(answer(connection, sql, parameters, **limits))


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


@pytest.mark.parametrize("explain", ["EXPLAIN", "explain\n analyze"])
def test_a_select_can_be_explained_and_nothing_else(locked, explain):
    for sql, found in (("FROM models", "parquet"), ("WITH m AS (SELECT 1 AS a) SELECT a FROM m", "projection")):
        [plan] = rows(locked, f"{explain} {sql}")["explain_value"].to_pylist()
        assert found in plan.lower()
    for sql in ("COPY models TO '/tmp/x.csv'", "SELECT 1; DROP VIEW models", "EXPLAIN SELECT 1", "FROM '/etc/passwd'"):
        with pytest.raises(UnsafeSqlError):
            check(locked, f"{explain} {sql}")


def test_only_a_pivot_gets_the_hint_about_pivots(locked):
    for sql, is_told in (("PIVOT models ON model USING count(*)", True), ("DROP VIEW models", False)):
        with pytest.raises(UnsafeSqlError) as caught:
            check(locked, sql)
        assert ("IN (...)" in str(caught.value)) == is_told


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [("SELECT ?::INT + ? AS x", [1, 2]), ("SELECT $a AS x", {"a": 3})],
)
def test_parameters_are_values(locked, sql, parameters):
    assert rows(locked, sql, parameters).to_pylist() == [{"x": 3}]


HIDDEN = [attack.sql for attack in attacks("/") if attack.name.startswith(("statement", "file"))]


@given(st.sampled_from(HIDDEN), st.data())
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_case_comments_and_space_do_not_hide_anything(locked, sql, data):
    blank = st.sampled_from([" ", "\n", "\t", "/**/", " /* ; SELECT */ ", " -- SELECT 1;\n"])
    words = re.split(r" (?=(?:[^']*'[^']*')*[^']*$)", sql)
    words = [word if "'" in word else data.draw(st.sampled_from([word.upper(), word.lower(), word])) for word in words]
    hidden = data.draw(blank) + "".join(word + data.draw(blank) for word in words)
    with pytest.raises(UnsafeSqlError):
        check(locked, hidden)


def test_comments_around_explain_are_allowed(locked):
    check(locked, "/* why */ EXPLAIN -- how\n/**/ SELECT 1")


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_csv('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM read_text('{root}/../secret.txt')",
        "FROM read_text('{root}/models/../../secret.txt')",
        "FROM glob('/etc/*')",
        "COPY (SELECT 1) TO '{root}/../x.csv'",
        "COPY (SELECT 1) TO '{root}/_reports/x.csv'",
        "WITH t AS (COPY (SELECT 1) TO '{root}/../x.csv') FROM t",
        "ATTACH '{root}/../x.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "RESET lock_configuration",
        "EXPORT DATABASE '{root}/../x'",
    ],
)
def test_the_engine_refuses_without_the_check_too(root, locked, sql):
    (root.parent / "secret.txt").write_text("secret")
    with pytest.raises(duckdb.Error, match=r"Permission Error|disabled|locked|not allowed|does not exist|[Cc]annot"):
        locked.execute(sql.format(root=root)).fetchall()
    assert {path.name for path in root.parent.iterdir()} == {"warehouse", "secret.txt"}


def test_nothing_was_written_by_any_attack(root):
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {"models/model=tiny/part.parquet", "variants/model=tiny/recipe=wanda-50/part.parquet"}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("", "there is no SQL to run"),
        (" ; -- nothing", "there is no SQL to run"),
        ("SELEC 1", r'syntax error at or near "SELEC" \(line 1, column 1\)'),
        ("SELECT 'é',\n  FROM FROM", r"\(line 2, column \d+\)"),
        ("SELECT kl FROM models", r'Referenced column "kl" not found in FROM clause! Candidate bindings: '),
        ("FROM model", r'Table with name model does not exist! Did you mean "models"'),
        ("SELECT nope(1)", "nope"),
        ("SELECT 'x'::INT", "Could not convert string 'x' to INT32"),
        ("SELECT error('boom')", "^SQL: boom$"),
        ("SELECT ? + 1", "Values were not provided for the following parameters"),
        ("SELECT '\ud800'", "cannot be parsed"),
        ("SELECT \0", "SQL: "),
        ("SELECT " + "(" * 20_000, "nested deeper than 500"),
        ("SELECT " + "(" * 490, "syntax error"),
        ("SELECT " + "NOT " * 20_000 + "true", "SQL"),
        ("SELECT " + "+".join(["1"] * 20_000), "depth"),
        ("SELECT * FROM " + "(SELECT * FROM " * 500 + "models" + ")" * 500, "SQL"),
    ],
)
def test_wrong_sql_is_a_short_message_of_one_line(locked, sql, message):
    with pytest.raises(SqlError, match=message) as caught:
        rows(locked, sql)
    assert not isinstance(caught.value, UnsafeSqlError)
    assert "\n" not in str(caught.value)
    assert "LINE 1" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_no_timer_outlives_its_statement(locked):
    with pytest.raises(SqlError, match=r"ran longer than 0\.5 s"):
        rows(locked, "SELECT count(*) FROM range(1000000) a, range(1000000) b", seconds=0.5)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_a_large_answer_is_refused(locked):
    assert locked.execute("SELECT current_setting('memory_limit')").fetchall() == [("2.0 GiB",)]
    with pytest.raises(SqlError, match="larger than 1 GiB"):
        for _ in answer(locked, "SELECT i, repeat('x', 1000) FROM range(100000000) t(i)"):
            pass


def test_column_comments_can_be_read(locked):
    for sql in (
        "SELECT comment FROM duckdb_columns() WHERE table_name = 'models' AND column_name = 'model'",
        "SELECT comment FROM DUCKDB_COLUMNS() WHERE table_name = 'models' AND column_name = 'model'",
    ):
        assert rows(locked, sql).to_pylist() == [{"comment": TABLES["models"].column("model").comment()}]


def test_an_open_connection_returns_the_first_rows_and_stays_usable(root, locked):
    for count in (0, 1, 2047, 2048, 2049):
        assert rows(locked, "SELECT i FROM range(10000000) t(i)", rows=count)["i"].to_pylist() == list(range(count))
    assert rows(locked, "SELECT i FROM range(3) t(i)", rows=5).num_rows == 3
    with pytest.raises(SqlError, match="larger than 1 MiB"):
        rows(locked, "SELECT repeat('x', 1000) FROM range(10000)", size=1 << 20)
    with pytest.raises(UnsafeSqlError, match="only SELECT"):
        rows(locked, "CREATE TABLE mine AS SELECT 1")
    assert rows(locked, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_nothing_but_rows_reaches_standard_output(root):
    """DuckDB would draw a progress bar there."""
    with connect(root) as connection:
        assert connection.sql("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]
