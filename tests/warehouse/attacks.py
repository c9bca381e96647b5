"""Attacks on SQL: statements that try to run for ever, to read other files, or to write; and what must happen.

`{root}` stands for the folder of the warehouse, `{outside}` for a folder of secrets, which is the working folder too,
and `{port}` for a server that must not be called.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from prunescope.warehouse.core.errors import TOO_LARGE

GIBIBYTES = 0.5
# In every file outside, and in the environment of the process.
SECRET = "hunter2-secret"
_WITH = "with a as ("

# Statements by what must happen:
# - `stopped`: a limit of time, memory or size ends it.
# - `answered`, `empty`: it has rows, or none.
# - `answered or stopped`: which of the two depends on the machine.
# - `wrong: REGEX`: it fails with this message.
ATTACKS: dict[str, list[str]] = {
    # Time and memory: rows without end, functions that DuckDB does not interrupt or whose memory it does not count,
    # and its parser.
    "stopped": [
        "SELECT list(i) FROM range(1000000000) t(i)",
        "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t",
        "SELECT repeat('9', 10000000)::BIGNUM * repeat('9', 10000000)::BIGNUM",
        "SELECT damerau_levenshtein(repeat('ab', 20000), repeat('ba', 20000))",
        "SELECT repeat('a', 4000000000)",
        "SELECT sleep_ms(100000)",
        _WITH * 12,
    ],
    "answered or stopped": [
        "SELECT " + "[" * 400 + "]" * 400,
        "SELECT * FROM " + "(SELECT * FROM " * 500 + "models" + ")" * 500,
        "FROM range(1000000000)",
        "FROM range(1000000000000)",
        "SELECT i, repeat('x', 1000) FROM range(100000000) t(i)",
        "SELECT json_extract(repeat('{\"a\":', 400000) || '1' || repeat('}', 400000), '$.a')",
        "SELECT regexp_matches(repeat('a', 5000), repeat('a?', 1000) || repeat('a', 1000))",
        "SELECT repeat('a', 3000) LIKE repeat('%a', 1500) || 'b'",
        "SELECT * FROM models" + "".join(f" JOIN models m{i} USING (model)" for i in range(40)),
        "SELECT " + "CASE WHEN true THEN " * 300 + "1" + " END" * 300,
        "SELECT " + ",".join(f"{i} AS a{i}" for i in range(5000)),
        f"SELECT 1 IN ({','.join(map(str, range(9000)))})",
        f"SELECT '{'a' * 50_000}'",
        "SELECT CAST(NULL AS " + "STRUCT(a " * 300 + "INT" + ")" * 300 + ")",
        "SELECT 1" + " UNION ALL SELECT 1" * 1999,
    ],
    # The parser at its limits, and what it must not take for something else.
    "wrong: Max expression depth": [
        f"SELECT CAST(NULL AS INT{'[]' * 3000})",
        "SELECT " + " || ".join(["'a'"] * 3000),
        "SELECT x" + ".a" * 2000 + " FROM (SELECT {'a': 1} AS x)",
        "SELECT x" + "[1]" * 2000 + " FROM (SELECT [1] AS x)",
        "SELECT " + "- " * 3000 + "1",
        "SELECT " + "NOT " * 20_000 + "true",
        "SELECT " + "+".join(["1"] * 20_000),
    ],
    "wrong: syntax error|needs more memory": ["SELECT " + "(" * 490, "SELECT " + "(" * 20_000],
    "wrong: SQL: ": [
        "FROM duckdb_settings",
        "FROM temp.information_schema.tables",
        "SHOW '{outside}/secret.csv'",
        "SELECT factorial(1000000000)",
        "SELECT len(repeat(repeat('a', 1000000), 1000000))",
        "SELECT regexp_matches('a', repeat('(', 100) || 'a' || repeat('{1,900})', 100))",
        "SELECT repeat('[', 1000000)::JSON",
        "SELECT " + "f(" * 300 + "1" + ")" * 300,
        "WITH " + ", ".join(f"a{i} AS (SELECT * FROM a{i + 1})" for i in range(400)) + " SELECT * FROM a0",
        _WITH * 6 + "select 1" + ") select 1" * 6 + "x y z",
        "SELECT " + "-" * 3000 + "1",
        "SELECT /* " * 500,
        "SELECT $$a",
        'SELECT "' + "a" * 3000,
        "SELECT '" + "a" * 3000,
        "SELECT '\ud800'",
        "SELECT \0",
        "EXPLAIN --\rANALYZE COPY models TO '{outside}/x.csv' --\nSELECT 1",
        "SELECT nextval('s')",
        "SELECT getenv('SECRET')",
        "FROM other.models",
        "FROM other.main.models",
        "FROM models.parquet",
        "FROM no_such_function()",
        "FROM arrow_scan(1, 2, 3)",
        "FROM arrow_scan(NULL, NULL, NULL)",
        "FROM pandas_scan(1)",
        "FROM python_arrow_scan(1)",
        "SELECT 1::UBIGINT::POINTER",
        "FROM python_map_function((SELECT 1), 1)",
    ],
    # Values that a format may not hold.
    "answered": [
        "SELECT 0.1::DECIMAL(38, 37) AS x",
        "SELECT '1010'::BIT AS x",
        "SELECT '123456789012345678901234567890123456789012345'::BIGNUM AS x",
        "SELECT '12:00:00.123456789'::TIME_NS AS x",
        "SELECT '-170141183460469231731687303715884105728'::HUGEINT AS x",
        'SELECT 1 AS "<script>alert(1)</script>"',
        "SELECT 1 AS x, 2 AS x",
        "SELECT 1::VARIANT AS x",
        "SELECT '24:00:00+01'::TIMETZ AS x",
        "SELECT '\u202e\x07\x1b[31m' AS x",
        "SELECT 340282366920938463463374607431768211455::UHUGEINT AS x",
        "SELECT {'a': date '290000-01-01', 'b': 'nan'::FLOAT} AS x",
        "SELECT ['a', NULL]::VARCHAR[2] AS x",
        "SELECT chr(0) AS x",
        "SELECT date '290000-01-01' AS x",
        "SELECT date '290308-12-22 (BC)' AS x",
        "SELECT 'infinity'::DATE AS x",
        "SELECT 'infinity'::FLOAT AS x",
        "SELECT '-infinity'::TIMESTAMP AS x",
        "SELECT 'infinity'::TIMESTAMPTZ AS x",
        "SELECT [interval '1 day'] AS x",
        "SELECT interval '1 year 2 days' AS x",
        "SELECT map {1: date '290000-01-01'} AS x",
        "SELECT 'nan'::DOUBLE AS x",
        "SELECT NULL AS x",
        "SELECT row(1, 'a') AS x",
        "SELECT time '24:00:00' AS x",
        "SELECT union_value(a := 1) AS x",
        "SELECT '\\xFF\\x00'::BLOB AS x",
        # What shows the engine, and none of the machine.
        "FROM duckdb_settings()",
        "FROM duckdb_functions()",
        "FROM pg_catalog.pg_settings",
        "FROM sqlite_master",
        "FROM files.models_files",
        "FROM files.provenance_files",
        "FROM system.information_schema.tables",
        'FROM "system".main.duckdb_columns()',
        "FROM system.main.duckdb_views()",
        "SHOW DATABASES",
        "SELECT current_setting('secret_directory')",
        "SELECT current_setting('http_proxy')",
        "SELECT current_setting('home_directory')",
        "SELECT (SELECT count(*) FROM pragma_version())",
        "SELECT (SELECT count(*) FROM query('SELECT 1'))",
        "FROM query_table('models')",
        "SELECT write_log('x')",
        "SELECT sleep_ms(1)",
        "EXPLAIN ANALYZE COMMIT",
        "EXPLAIN ANALYZE SET VARIABLE x = 1",
        "EXPLAIN ANALYZE CREATE TEMP TABLE models AS SELECT 'x' AS model",
    ],
    "empty": [
        "FROM duckdb_variables()",
        "SHOW VARIABLES",
        "FROM duckdb_secrets()",
        "FROM which_secret('x', 's3')",
        "FROM duckdb_logs()",
        "FROM duckdb_temporary_files()",
        "FROM (SHOW ALL TABLES) WHERE schema = 'files'",
        "SELECT * FROM duckdb_columns() WHERE schema_name = 'files'",
        "SELECT * FROM duckdb_tables() WHERE schema_name = 'files'",
        "SELECT * FROM duckdb_views() WHERE schema_name = 'files'",
        "SELECT * FROM DUCKDB_VIEWS() WHERE sql LIKE '%read_parquet%'",
        "SELECT * FROM information_schema.columns WHERE table_schema = 'files'",
        "SELECT * FROM information_schema.schemata WHERE schema_name = 'files'",
        "SELECT * FROM information_schema.tables WHERE table_schema = 'files'",
        # The warehouse's own scheme reaches listed partitions only.
        "FROM glob('warehouse://**')",
        "FROM glob('warehouse:///**')",
        "FROM glob('warehouse://{outside}/*')",
        "FROM read_text('warehouse://{outside}/secret.txt')",
        "FROM read_blob('warehouse:///proc/self/environ')",
        "FROM read_blob('warehouse:///proc/self/fd/0')",
    ],
    # Other files.
    "wrong: no files": [
        "FROM read_blob('warehouse://{root}/../outside/secret.txt')",
        "EXPLAIN ANALYZE /* /* */ SELECT 1 -- */ COPY models TO '{outside}/x.csv'",
        "FROM '{outside}/secret.csv'",
        'SELECT * FROM "{outside}/secret.csv"',
        "FROM '{root}/../outside/secret.csv'",
        "FROM '{root}/models/../../outside/secret.parquet'",
        "FROM '{root}/models/model=tiny/part.parquet'",
        "FROM 'secret.csv'",
        "FROM '*.csv'",
        "FROM 'file://{outside}/secret.csv'",
        "FROM 'https://127.0.0.1:{port}/x.csv'",
        "FROM 's3://bucket/x.parquet'",
        "FROM models JOIN 'secret.csv' USING (model)",
        "SELECT 1 LIMIT (SELECT max(x) FROM 'secret.csv')",
        "SELECT list_transform([1], lambda x: (SELECT count(*) FROM 'secret.csv'))",
        "WITH a AS (FROM 'secret.json') FROM a",
        "FROM (PIVOT 'secret.csv' ON a IN (1) USING count(*))",
        "DESCRIBE 'secret.parquet'",
        "SUMMARIZE '{outside}/secret.csv'",
        "FROM read_text('{outside}/secret.txt')",
        "FROM read_blob('{outside}/secret.txt')",
        "FROM read_blob('/proc/self/environ')",
        "FROM read_blob('/proc/self/fd/0')",
        "FROM read_csv('{outside}/secret.csv')",
        "FROM main.read_csv('{outside}/secret.csv')",
        "FROM system.main.read_csv('{outside}/secret.csv')",
        "FROM \"read_csv\"('{outside}/secret.csv')",
        "FROM READ_CSV_AUTO('{outside}/secret.csv')",
        "FROM read_csv('/dev/stdin')",
        "FROM sniff_csv('{outside}/secret.csv')",
        "FROM read_json('{outside}/secret.json')",
        "FROM read_ndjson_objects('{outside}/secret.json')",
        "FROM read_duckdb('{outside}/secret.duckdb')",
        "FROM read_parquet('{root}/models/model=tiny/part.parquet')",
        "FROM parquet_scan('{outside}/secret.parquet')",
        "FROM parquet_metadata('{outside}/secret.parquet')",
        "FROM parquet_kv_metadata('{outside}/secret.parquet')",
        "FROM read_text('http://127.0.0.1:{port}/x')",
        "FROM glob('{outside}/*')",
        "FROM glob('{root}/**')",
        "FROM query('FROM read_text(''{outside}/secret.txt'')')",
        "FROM query_table('{outside}/secret.csv')",
        "FROM duckdb_extensions()",
        # Writes in a SELECT or an EXPLAIN, of which DuckDB allows some.
        "WITH t AS (COPY (SELECT 1) TO '{root}/models/x.csv') FROM t",
        "WITH t AS (COPY (SELECT 1) TO '{root}/models/model=tiny/part.parquet' (USE_TMP_FILE false)) FROM t",
        "WITH t AS (COPY (SELECT 1) TO 'x.csv') FROM t",
        "WITH t AS (COPY models TO '/dev/stdout') FROM t",
        "WITH t AS (COPY (SELECT 1 AS a, 2 AS b) TO '{root}/models' (PARTITION_BY (a), OVERWRITE true)) FROM t",
        "WITH t AS (COPY (SELECT 1 AS a, 2 AS b) TO 'warehouse://{root}' (PARTITION_BY (a), OVERWRITE true)) FROM t",
        "EXPLAIN ANALYZE COPY models TO '{outside}/x.csv'",
        "/* ; SELECT */ EXPLAIN /**/ ANALYZE -- SELECT 1\nCOPY models TO '{outside}/x.csv'",
        "EXPLAIN ANALYZE LOAD httpfs",
    ],
    "wrong: Malformed JSON": ["FROM json_execute_serialized_sql('x')"],
    "wrong: only reads the warehouse": [
        "WITH t AS (COPY (SELECT 1) TO 'warehouse://{outside}/x.csv') FROM t",
        "WITH t AS (COPY (SELECT 1) TO 'warehouse://{root}/models/model=tiny/part.parquet') FROM t",
        "WITH t AS (COPY (SELECT 1) TO 'warehouse:///proc/self/fd/5' (USE_TMP_FILE false)) FROM t",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'warehouse:///x.parquet'",
        "WITH t AS (COPY models TO 'warehouse:///proc/self/fd' (FORMAT parquet, PER_THREAD_OUTPUT true)) FROM t",
    ],
    "wrong: read-only mode": [
        "EXPLAIN ANALYZE CREATE OR REPLACE VIEW models AS SELECT 'x' AS model",
        "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
        "EXPLAIN ANALYZE CREATE MACRO f() AS 1",
        "EXPLAIN ANALYZE DROP VIEW models",
    ],
    "wrong: configuration has been locked": [
        "FROM enable_logging()",
        "FROM enable_logging('QueryLog', storage := 'file', storage_path := '{outside}/log')",
        "EXPLAIN ANALYZE CALL enable_logging('QueryLog', storage := 'file', storage_path := '{outside}/log')",
        "FROM enable_profiling(save_location := '{outside}/profile.json')",
        "FROM disable_logging()",
    ],
    "wrong: COPY statement must be at the top level": [
        "SELECT * FROM (WITH a AS (WITH t AS (COPY models TO '{outside}/x.csv') FROM t) FROM a)",
        "SELECT (WITH t AS MATERIALIZED (COPY models TO '{outside}/x.csv') SELECT count(*) FROM t)",
    ],
    "wrong: base table|is not an table": [
        "WITH t AS (DELETE FROM models RETURNING *) FROM t",
        "WITH t AS (INSERT INTO models VALUES (1) RETURNING *) FROM t",
        "WITH t AS (UPDATE models SET model = 'x' RETURNING *) FROM t",
    ],
    # One statement that reads.
    "wrong: only one statement is allowed": [
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW models",
        "SELECT 1 /* ; */; -- x\n SELECT 2",
        "EXPLAIN SELECT 1; DROP VIEW models",
    ],
    "wrong: there is no SQL to run": ["", " ; -- nothing"],
    "wrong: ^only SELECT, EXPLAIN, DESCRIBE, SUMMARIZE and SHOW are allowed": [
        "ALTER VIEW models RENAME TO x",
        "ANALYZE",
        "ATTACH '{root}/models/x.duckdb'",
        "BEGIN",
        "CALL pragma_version()",
        "CALL read_csv('{outside}/secret.csv')",
        "CHECKPOINT",
        "COMMENT ON VIEW models IS 'x'",
        "COPY models FROM '{outside}/secret.csv'",
        "COPY models TO '{outside}/x.parquet'",
        "COPY (SELECT 1) TO '{root}/models/x.csv'",
        "CREATE MACRO f() AS TABLE FROM read_csv('{outside}/secret.csv')",
        "CREATE OR REPLACE VIEW models AS SELECT 1",
        "CREATE SECRET (TYPE s3)",
        "CREATE TABLE x AS SELECT 1",
        "DELETE FROM models",
        "DETACH memory",
        "DROP VIEW models",
        "EXECUTE p",
        "EXPORT DATABASE '{outside}/x'",
        "IMPORT DATABASE '{outside}/x'",
        "INSERT INTO models VALUES (1)",
        "INSTALL httpfs",
        "LOAD httpfs",
        "MERGE INTO models USING variants ON true WHEN MATCHED THEN DELETE",
        "PIVOT models ON model USING count(*)",
        "PRAGMA database_list",
        "PRAGMA version",
        "PREPARE p AS SELECT 1",
        "RESET memory_limit",
        "SET memory_limit = '100GB'",
        "SET VARIABLE x = 1",
        "TRUNCATE models",
        "UPDATE EXTENSIONS",
        "UPDATE models SET model = 'x'",
        "USE memory",
        "VACUUM",
        "PRAGMA show_tables",
        "PRAGMA json_execute_serialized_sql('x')",
        "PRAGMA profiling_output = '{outside}/profile.json'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET temp_directory = '{outside}'",
        "RESET lock_configuration",
        "CREATE PERSISTENT SECRET (TYPE http)",
        "ATTACH '{outside}/secret.duckdb'",
        "CALL enable_logging('QueryLog', storage := 'file', storage_path := '{outside}/log')",
        "/* /* */ EXPLAIN SELECT 1 -- */ COPY models TO '{outside}/x.csv'",
    ],
}
SLOW = [
    "FROM (SELECT unnest(range(1000000000)))",
    "FROM range(100000) a ORDER BY (SELECT count(*) FROM range(100000) b WHERE b.range * a.range % 7 = 3)",
    "SELECT count(DISTINCT a.range * b.range) FROM range(100000) a, range(1000000) b",
    "SELECT count(*) FROM range(1000000) a, range(1000000) b",
    "SELECT count(*) FROM range(9223372036854775807)",
    "SELECT * FROM generate_series(1, 9223372036854775807) LIMIT 1 OFFSET 9223372036854775806",
    "SELECT * FROM models, range(1000000000) a, range(1000000000) b ORDER BY ALL",
    "SELECT * FROM range(1000000000) t(i) ORDER BY hash(i)",
    "SELECT * FROM range(1000000) a, range(1000000) b WHERE a.range + b.range < 0",
    "SELECT histogram(i) FROM range(1000000000) t(i)",
    "SELECT i % 10000000, list(i) FROM range(1000000000) t(i) GROUP BY ALL",
    "SELECT mode(i) FROM range(1000000000) t(i)",
    "SELECT sum(hash(a.range * b.range)) FROM range(10000000) a, range(10000000) b",
    "SELECT sum(i) OVER (ORDER BY hash(i) ROWS BETWEEN 999999 PRECEDING AND 9 FOLLOWING) FROM range(100000000) t(i)",
    "SELECT unnest(range(100000000)), unnest(range(100000000))",
    "WITH RECURSIVE t(s) AS (SELECT 'a' UNION ALL SELECT s || s FROM t) SELECT max(len(s)) FROM t",
    "SELECT 'a' LIKE repeat('%a', 50000000)",
    "SELECT array_agg(i) FROM range(10000000000) t(i)",
    "SELECT array_to_string(range(100000000), ',')",
    "SELECT base64(repeat('a', 2000000000)::BLOB)",
    "SELECT bitstring('1', 2000000000)",
    "SELECT flatten([range(100000000), range(100000000)])",
    "SELECT format('{:2000000000d}', 1)",
    "SELECT generate_series(1, 4000000000)",
    "SELECT jaro_similarity(repeat('ab', 2000000), repeat('ba', 2000000))",
    "SELECT jaro_winkler_similarity(repeat('ab', 2000000), repeat('ba', 2000000))",
    "SELECT len(list_transform(range(60000000), lambda x: x + 1))",
    "SELECT len(range(2000000000))",
    "SELECT levenshtein(repeat('ab', 200000), repeat('ba', 200000))",
    "SELECT list_aggregate(range(100000000), 'quantile_cont', 0.5)",
    "SELECT list_concat(range(100000000), range(100000000))",
    "SELECT list_cosine_similarity(range(100000000), range(100000000))",
    "SELECT list_distinct(range(100000000))",
    "SELECT list_reduce(range(100000000), lambda x, y: x + y)",
    "SELECT list(repeat('a', 1000000)) FROM range(1000000)",
    "SELECT list_sort(range(100000000))",
    "SELECT lpad('a', 2147483647, 'b')",
    "SELECT map_from_entries(list_transform(range(50000000), lambda x: {'k': x, 'v': x}))",
    "SELECT md5(repeat('a', 4000000000))",
    "SELECT mismatches(repeat('a', 400000000), repeat('b', 400000000))",
    "SELECT printf('%2000000000d', 1)",
    "SELECT regexp_extract_all(repeat('a', 100000000), 'a')",
    "SELECT regexp_replace(repeat('a', 100000000), 'a', repeat('b', 100), 'g')",
    "SELECT repeat('a', 100000000)::BLOB::VARCHAR",
    "SELECT replace(repeat('a', 100000000), 'a', repeat('b', 1000))",
    "SELECT reverse(repeat('ä', 500000000))",
    "SELECT rpad('a', 2147483647, 'b')",
    "SELECT strftime(date '2000-01-01', repeat('%A', 100000000))",
    "SELECT string_agg(repeat('a', 1000000), '') FROM range(1000000)",
    "SELECT string_split(repeat('a,', 200000000), ',')",
    "SELECT to_json(range(200000000))",
    "SELECT translate(repeat('a', 400000000), 'a', 'b')",
    "SELECT upper(repeat('ß', 1000000000))",
    _WITH * 8,
    _WITH * 40,
    _WITH * 500,
    "WITH a0 AS (SELECT 1 AS x), "
    + ", ".join(f"a{i + 1} AS (SELECT * FROM a{i} UNION ALL SELECT * FROM a{i})" for i in range(39))
    + " SELECT count(*) FROM a39",
    "FROM " + ", ".join(f"range(2) t{i}" for i in range(60)),
]


@dataclass(frozen=True)
class Attack:
    """One statement and what must happen; the slow ones differ for DuckDB only."""

    expected: str
    sql: str
    is_slow: bool

    @property
    def name(self) -> str:
        """Words of the statement."""
        return "_".join(re.findall(r"[a-z0-9]+", self.sql[:80].lower()))

    @property
    def seconds(self) -> float:
        """The time limit."""
        return 1 if self.expected == "stopped" else 30

    def at(self, root: Path, outside: Path, port: int = 9) -> "Attack":
        """Return the attack on a warehouse, beside a folder of secrets and a server that must not be called."""
        places = {"{root}": str(root), "{outside}": str(outside), "{port}": str(port)}
        return replace(self, sql=re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], self.sql))

    def check(self, error: str | None, rows: int) -> None:
        """Compare the message of the failure, or None, and the number of rows with what must happen."""
        kind, _, pattern = self.expected.partition(": ")
        match kind:
            case "answered or stopped" if error is None:
                assert rows
            case "answered" | "empty":
                assert error is None, error
                assert bool(rows) == (kind == "answered")
            case "stopped" | "answered or stopped":
                assert error is not None
                limits = (TOO_LARGE, f"the SQL ran longer than {self.seconds} s", "the result is larger than")
                assert error.startswith(limits), error
            case "wrong":
                assert error is not None
                assert "\n" not in error
                assert len(error) < 400
                assert re.search(pattern, error), error
            case _:
                raise ValueError(f"{self.expected!r} is no expectation")


def attacks() -> list[Attack]:
    """Return all attacks."""
    pairs = [(expected, sql, False) for expected, statements in ATTACKS.items() for sql in statements]
    return [Attack(*each) for each in pairs + [("stopped", sql, True) for sql in SLOW]]
