"""A user's SQL reads the warehouse and nothing else; the refusal names the rule."""

import re
import threading

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunescope.warehouse.catalogue.database import FORMER_NAMES, connect, view_sql
from prunescope.warehouse.catalogue.safe_sql import answer, check
from prunescope.warehouse.catalogue.sql_process import run_safe
from prunescope.warehouse.core.errors import DamagedFileError, DamagedFileWarning, SqlError, UnsafeSqlError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES


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
def test_whatever_only_reads_is_answered(root, sql):
    assert run_safe(root, sql).to_pylist() == [{"model": "tiny"}]


@pytest.mark.parametrize("sql", ["DESCRIBE models", "SUMMARIZE models", "SHOW models", "DESC SELECT * FROM models"])
def test_a_table_can_be_described(root, sql):
    assert run_safe(root, sql).num_rows == len(TABLES["models"].columns)


def test_tables_and_views_can_be_listed(root):
    for sql in ("SHOW TABLES", "SHOW ALL TABLES", "FROM (SHOW TABLES)", "DESCRIBE", " describe ;"):
        assert {*TABLES, *view_sql(), *FORMER_NAMES, "provenance"} == set(run_safe(root, sql)["name"].to_pylist())


@pytest.mark.parametrize("explain", ["EXPLAIN", "explain\n analyze"])
def test_a_select_can_be_explained_and_nothing_else(root, locked, explain):
    for sql, found in (("FROM models", "parquet"), ("WITH m AS (SELECT 1 AS a) SELECT a FROM m", "projection")):
        [plan] = run_safe(root, f"{explain} {sql}")["explain_value"].to_pylist()
        assert found in plan.lower()
    for sql in ("COPY models TO '/tmp/x.csv'", "SELECT 1; DROP VIEW models", "EXPLAIN SELECT 1", "FROM '/etc/passwd'"):
        with pytest.raises(UnsafeSqlError):
            check(locked, f"{explain} {sql}")


def test_only_a_pivot_is_told_what_a_pivot_needs(locked):
    for sql, is_told in (("PIVOT models ON model USING count(*)", True), ("DROP VIEW models", False)):
        with pytest.raises(UnsafeSqlError) as caught:
            check(locked, sql)
        assert ("IN (...)" in str(caught.value)) == is_told


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [("SELECT ?::INT + ? AS x", [1, 2]), ("SELECT $a AS x", {"a": 3})],
)
def test_parameters_are_values(root, sql, parameters):
    assert run_safe(root, sql, parameters).to_pylist() == [{"x": 3}]


ONLY_SELECT = [
    "COPY (SELECT 1) TO '{root}/models/x.csv'",
    "COPY models TO '/tmp/x.parquet'",
    "COPY models FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/x'",
    "IMPORT DATABASE '/tmp/x'",
    "ATTACH '{root}/models/x.duckdb'",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "UPDATE EXTENSIONS",
    "SET memory_limit = '100GB'",
    "RESET memory_limit",
    "SET VARIABLE x = 1",
    "PRAGMA version",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CALL read_csv('/etc/passwd')",
    "CREATE TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW models AS SELECT 1",
    "CREATE MACRO f() AS TABLE FROM read_csv('/etc/passwd')",
    "CREATE SECRET (TYPE s3)",
    "DROP VIEW models",
    "ALTER VIEW models RENAME TO x",
    "COMMENT ON VIEW models IS 'x'",
    "INSERT INTO models VALUES (1)",
    "DELETE FROM models",
    "UPDATE models SET model = 'x'",
    "TRUNCATE models",
    "MERGE INTO models USING variants ON true WHEN MATCHED THEN DELETE",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "EXPLAIN ANALYZE COPY models TO '/tmp/x.csv'",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "PIVOT models ON model USING count(*)",
    # Since DuckDB 2 these parse as SELECT.
    "WITH t AS (COPY (SELECT 1) TO '{root}/models/x.csv') FROM t",
    "WITH t AS (INSERT INTO models VALUES (1) RETURNING *) FROM t",
    "WITH t AS (DELETE FROM models RETURNING *) FROM t",
    "WITH t AS (UPDATE models SET model = 'x' RETURNING *) FROM t",
    "SELECT (WITH t AS MATERIALIZED (COPY models TO '/tmp/x.csv') SELECT count(*) FROM t)",
    "SELECT * FROM (WITH a AS (WITH t AS (COPY models TO '/tmp/x.csv') FROM t) FROM a)",
    "DESCRIBE WITH t AS (COPY models TO '/tmp/x.csv') FROM t",
]
FILES = [
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "FROM 'x.parquet'",
    "FROM '{root}/models/model=tiny/part.parquet'",
    "FROM '*.csv'",
    "FROM 'https://example.org/x.csv'",
    "FROM 's3://bucket/x.parquet'",
    "DESCRIBE 'x.parquet'",
    "SUMMARIZE '/etc/passwd'",
    "SHOW '/etc/passwd'",
    "SELECT (SELECT count(*) FROM 'x.csv')",
    "WITH a AS (FROM 'x.json') FROM a",
    "FROM models WHERE model IN (FROM 'x.csv')",
    "FROM models JOIN 'x.csv' USING (model)",
    "SELECT 1 ORDER BY (SELECT max(x) FROM 'x.csv')",
    "SELECT 1 LIMIT (SELECT max(x) FROM 'x.csv')",
    "SELECT list_transform([1], lambda x: (SELECT count(*) FROM 'x.csv'))",
    "SELECT 1 UNION ALL (SELECT * FROM 'x.csv')",
    "FROM (PIVOT 'x.csv' ON a IN (1) USING count(*))",
    "VALUES ((SELECT count(*) FROM 'x.csv'))",
]
FUNCTIONS = [
    "read_csv('/etc/passwd')",
    "READ_CSV_AUTO('/etc/passwd')",
    "\"read_csv\"('/etc/passwd')",
    "main.read_csv('/etc/passwd')",
    "system.main.read_csv('/etc/passwd')",
    "read_text('/etc/passwd')",
    "read_blob('/etc/passwd')",
    "read_json('/etc/passwd')",
    "read_ndjson_objects('/etc/passwd')",
    "read_parquet('{root}/models/model=tiny/part.parquet')",
    "parquet_scan('x')",
    "parquet_metadata('x')",
    "parquet_kv_metadata('x')",
    "read_duckdb('x')",
    "sniff_csv('/etc/passwd')",
    "glob('/etc/*')",
    "query('SELECT 1')",
    "query_table('models')",
    "json_execute_serialized_sql('x')",
    "duckdb_settings()",
    "duckdb_secrets()",
    "which_secret('x', 's3')",
    "pragma_version()",
    "enable_logging()",
    "arrow_scan(1, 2, 3)",
    "python_map_function()",
    "no_such_function()",
]
SCALARS = ["write_log('x')", "getenv('HOME')", "current_setting('home_directory')", "nextval('s')", "sleep_ms(1)"]


@pytest.mark.parametrize("sql", ONLY_SELECT)
def test_what_is_no_select_is_refused(root, locked, sql):
    with pytest.raises(UnsafeSqlError, match="only SELECT is allowed"):
        check(locked, sql.format(root=root))


@pytest.mark.parametrize("sql", FILES)
def test_a_file_is_no_table(root, locked, sql):
    with pytest.raises(UnsafeSqlError, match="files cannot be read, only tables and views"):
        check(locked, sql.format(root=root))


@pytest.mark.parametrize("around", ["FROM {}", "SELECT (SELECT count(*) FROM {})", "WITH t AS (FROM {}) FROM models"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_table_function_is_refused_unless_it_is_known_to_be_harmless(root, locked, function, around):
    with pytest.raises(UnsafeSqlError, match=r"table function \w+ is not allowed"):
        check(locked, around.format(function.format(root=root)))


@pytest.mark.parametrize("function", SCALARS)
def test_a_function_that_does_more_than_compute_is_refused(locked, function):
    with pytest.raises(UnsafeSqlError, match="it does more than compute"):
        check(locked, f"SELECT 1 FROM models WHERE {function} IS NULL")


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("SELECT 1; SELECT 2", "only one statement"),
        ("SELECT 1; DROP VIEW models", "only"),
        ("SELECT 1 /* ; */; -- x\n SELECT 2", "only one statement"),
        ("FROM other.models", "only the warehouse's own"),
        ("FROM files.models_files", "only the warehouse's own"),
        ("FROM other.main.models", "only the warehouse's own"),
        ("FROM models.parquet", "only the warehouse's own"),
        ("FROM duckdb_settings", "shows the engine"),
        ("FROM pg_catalog.pg_settings", "only the warehouse's own"),
        ("FROM sqlite_master", "shows the engine"),
        ("SHOW DATABASES", "SHOW TABLES is"),
        ("SHOW VARIABLES", "SHOW TABLES is"),
    ],
)
def test_other_ways_out_are_refused(locked, sql, rule):
    with pytest.raises(UnsafeSqlError, match=rule):
        check(locked, sql)


@given(st.sampled_from(ONLY_SELECT + FILES), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_case_comments_and_space_do_not_hide_anything(locked, sql, data):
    blank = st.sampled_from([" ", "\n", "\t", "/**/", " /* ; SELECT */ ", " -- SELECT 1;\n"])
    words = re.split(r" (?=(?:[^']*'[^']*')*[^']*$)", sql)
    words = [word if "'" in word else data.draw(st.sampled_from([word.upper(), word.lower(), word])) for word in words]
    hidden = data.draw(blank) + "".join(word + data.draw(blank) for word in words)
    with pytest.raises(UnsafeSqlError):
        check(locked, hidden)


@pytest.mark.parametrize(
    "sql",
    [
        "/* ; SELECT */ EXPLAIN /**/ ANALYZE -- SELECT 1\nCOPY models TO '/tmp/x.csv'",
        "/* /* */ EXPLAIN SELECT 1 -- */ COPY models TO '/tmp/x.csv'",
        "EXPLAIN ANALYZE /* /* */ SELECT 1 -- */ COPY models TO '/tmp/x.csv'",
        "EXPLAIN --\rANALYZE COPY models TO '/tmp/x.csv' --\nSELECT 1",
    ],
)
def test_no_comment_around_explain_hides_a_statement(locked, sql):
    with pytest.raises((UnsafeSqlError, SqlError)):
        check(locked, sql)
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
def test_the_engine_refuses_too_where_the_parser_is_passed_by(root, locked, sql):
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
def test_wrong_sql_is_a_short_message_of_one_line(root, sql, message):
    with pytest.raises(SqlError, match=message) as caught:
        run_safe(root, sql)
    assert not isinstance(caught.value, UnsafeSqlError)
    assert "\n" not in str(caught.value)
    assert "LINE 1" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000) a, range(1000000) b",
        "SELECT * FROM range(1000000) a, range(1000000) b WHERE a.range + b.range < 0",
        "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t",
    ],
)
def test_a_statement_without_end_is_stopped(root, sql):
    with pytest.raises(SqlError, match=r"ran longer than 0\.5 s"):
        run_safe(root, sql, seconds=0.5)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT list(i) FROM range(1000000000) t(i)", "more memory"),
        ("SELECT i, repeat('x', 1000) FROM range(100000000) t(i)", "larger than 1 GiB"),
    ],
)
def test_a_statement_that_would_fill_the_memory_is_stopped(root, locked, sql, message):
    assert locked.execute("SELECT current_setting('memory_limit')").fetchall() == [("2.0 GiB",)]
    with pytest.raises(SqlError, match=message):
        run_safe(root, sql, gibibytes=0.25)  # a small one is full sooner


def test_a_damaged_warehouse_says_so(root, tmp_path):
    path = Store(tmp_path).path(TABLES["models"], "tiny", None)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1")
    with pytest.warns(DamagedFileWarning, match="delete it and run its study again"):
        assert run_safe(tmp_path, "FROM variants").num_rows == 0
    with (
        pytest.warns(DamagedFileWarning),
        pytest.raises(DamagedFileError, match="^/.* is damaged .*run its study again"),
    ):
        run_safe(tmp_path, "FROM models")


def test_comments_are_there_for_who_asks_for_them(root):
    for sql in (
        "SELECT comment FROM duckdb_columns() WHERE table_name = 'models' AND column_name = 'model'",
        "SELECT comment FROM DUCKDB_COLUMNS() WHERE table_name = 'models' AND column_name = 'model'",
    ):
        assert run_safe(root, sql).to_pylist() == [{"comment": TABLES["models"].column("model").comment()}]


def test_of_an_open_connection_the_first_rows_come_and_the_connection_stays(root, locked):
    for rows in (0, 1, 2047, 2048, 2049):
        assert answer(locked, "SELECT i FROM range(10000000) t(i)", rows=rows)["i"].to_pylist() == list(range(rows))
    assert answer(locked, "SELECT i FROM range(3) t(i)", rows=5).num_rows == 3
    with pytest.raises(SqlError, match="larger than 1 MiB"):
        answer(locked, "SELECT repeat('x', 1000) FROM range(10000)", size=1 << 20)
    with pytest.raises(UnsafeSqlError, match="only SELECT"):
        answer(locked, "CREATE TABLE mine AS SELECT 1")
    assert answer(locked, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_nothing_but_rows_reaches_standard_output(root):
    """DuckDB would draw a progress bar there."""
    with connect(root) as connection:
        assert connection.sql("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]
