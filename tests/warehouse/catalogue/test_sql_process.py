"""Tests of SQL in its own process: attacks end as expected, within the limits, read no other file and write nothing."""

import datetime
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import chdir
from pathlib import Path

import duckdb
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunescope.warehouse.catalogue.sql_process import Setup, SqlProcess, run_safe
from prunescope.warehouse.core.errors import (
    DamagedFileWarning,
    SqlError,
    SqlSizeError,
    SqlTimeError,
    WarehouseError,
)
from prunescope.warehouse.core.formats import FORMATS, render
from prunescope.warehouse.core.program import PACKAGE
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.kept_processes import InThisProcess
from tests.warehouse.attacks import GIBIBYTES, SECRET, attacks
from tests.warehouse.conftest import provenance_of, rows_of


class World:
    """A warehouse next to a folder of secrets and a server. What serves SQL works in the folder of secrets."""

    def __init__(self, base):
        self.base, self.outside = base, base / "outside"
        store = Store(base / "warehouse")
        self.root = store.root
        for name, recipe in (("models", None), ("variants", "wanda-50")):
            rows, provenance = rows_of(TABLES[name], "tiny", recipe), provenance_of("tiny", recipe)
            store.write(TABLES[name], rows, provenance, "tiny", recipe)
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(SECRET)
        (self.outside / "secret.csv").write_text(f"x,y\n{SECRET},1\n")
        (self.outside / "secret.json").write_text(json.dumps({"x": SECRET}))
        with duckdb.connect(self.outside / "secret.duckdb") as connection:
            connection.execute(f"CREATE TABLE secret AS SELECT '{SECRET}' AS x")
            connection.execute(f"COPY secret TO '{self.outside}/secret.parquet' (KV_METADATA {{x: '{SECRET}'}})")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.here_too = InThisProcess(Setup(str(self.root), GIBIBYTES))

    def process(self):
        with chdir(self.outside):
            return SqlProcess(Setup(str(self.root), GIBIBYTES))

    def files(self):
        """Return all files with what any write changes, but those of the processes themselves."""
        found = {path: path.lstat() for path in self.base.rglob("*") if "temporary" not in path.parts}
        return {path: (status.st_ino, status.st_size, status.st_mtime_ns) for path, status in found.items()}

    def is_called(self):
        return bool(select.select([self.server], [], [], 0)[0])

    def here(self, attack):
        return attack.at(self.root, self.outside, self.server.getsockname()[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Lay out the world with temporary files and the environment's secret in it."""
    with pytest.MonkeyPatch.context() as patch:
        found = World(tmp_path_factory.mktemp("attacked"))
        (found.base / "temporary").mkdir()
        patch.setattr(tempfile, "tempdir", str(found.base / "temporary"))
        patch.setenv("SECRET", SECRET)
        patch.setenv("HTTP_PROXY", f"http://user:{SECRET}@127.0.0.1:1")
        yield found
        found.here_too.close()
        found.server.close()


@pytest.fixture(scope="module")
def root(world):
    return world.root


def outcome(process, sql, seconds=1.0):
    """Return the message of the failure, or None, and the number of rows; both without any secret."""
    try:
        content, rows = process.render(sql, to="plain", seconds=seconds, rows=1000, size=16 << 20)
        message, seen = None, content.decode()
    except WarehouseError as error:
        message, seen, rows = str(error), str(error), 0
    assert SECRET not in seen
    assert SECRET.encode().hex() not in seen  # a BLOB
    return message, rows


NEEDS_LIMITS = ("stopped", "answered or stopped", "wrong: Max", "wrong: syntax", "wrong: SQL: ")


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            attack,
            id=attack.name,
            # The others need no limit, and the test below runs them too.
            marks=[pytest.mark.exhaustive] if attack.is_slow or not attack.expected.startswith(NEEDS_LIMITS) else [],
        )
        for attack in attacks()
    ],
)
def test_an_attack_ends_as_it_must_and_reads_and_writes_nothing_else(world, attack):
    attack = world.here(attack)
    before, started = world.files(), time.monotonic()
    with world.process() as process:
        error, rows = outcome(process, attack.sql, attack.seconds)
    assert time.monotonic() - started < attack.seconds + 9
    attack.check(error, rows)
    assert world.files() == before
    assert not world.is_called()


@pytest.mark.parametrize(
    "attack",
    [pytest.param(each, id=each.name) for each in attacks() if not each.expected.startswith(NEEDS_LIMITS)],
)
def test_the_locked_engine_itself_stops_what_would_read_or_write(world, attack):
    attack, before = world.here(attack), world.files()
    with chdir(world.outside):
        attack.check(*outcome(world.here_too, attack.sql))
    assert world.files() == before
    assert not world.is_called()
    assert world.here_too.ask("SELECT model FROM models").to_pylist() == [{"model": "tiny"}]


def test_the_attacks_would_find_the_secrets(world):
    """The secrets are where the attacks look for them: DuckDB without limits answers with each."""
    reads = [attack.sql for attack in map(world.here, attacks()) if attack.expected == "wrong: no files"]
    found = []
    with chdir(world.outside), duckdb.connect() as connection:
        for sql in [sql for sql in reads if not re.search("COPY|LOAD|http|s3:", sql)]:
            try:
                found.append(SECRET in str(connection.execute(sql).fetchall()))
            except duckdb.Error:
                found.append(False)
    assert sum(found) >= 20


def test_no_function_of_duckdb_reads_or_writes_a_file(world):
    """Each function of this DuckDB with the path of a secret, of a new file, and of a partition, as its arguments."""
    query = "SELECT DISTINCT function_name, function_type LIKE '%table%' FROM duckdb_functions() ORDER BY ALL"
    functions = [(name, is_table) for name, is_table in duckdb.sql(query).fetchall() if re.fullmatch(r"\w+", name)]
    assert len(functions) > 500
    paths = [f"{world.outside}/secret.csv", "new.csv", f"warehouse://{world.outside}/secret.txt"]
    partition = f"{world.root}/models/model=tiny/part.parquet"
    before = world.files()
    with chdir(world.outside):
        for name, is_table in functions:
            for arguments in ([], paths[:1], [paths[2]], [partition], paths[:2]):
                call = f"{name}({', '.join(map(repr, arguments))})"
                outcome(world.here_too, f"FROM {call}" if is_table else f"SELECT {call}")
    assert world.files() == before
    assert not world.is_called()


def test_the_kernel_limits_the_memory(world):
    with world.process() as process:
        asking = threading.Thread(target=outcome, args=[process, "SELECT sleep_ms(2000)", 30])
        asking.start()
        limit, file = None, Path(f"/proc/{process._process.pid}")
        while asking.is_alive() and limit is None:
            found = re.search(r"Max address space +(\d+)", (file / "limits").read_text())
            limit, size = found and int(found[1]), int(re.search(r"VmSize:\s+(\d+)", (file / "status").read_text())[1])
            time.sleep(0.01)
        asking.join()
    assert size < limit / 2**10 < size + 1.2 * GIBIBYTES * 2**20


def test_a_process_shows_only_its_scope_and_binds_parameters(root):
    setup = Setup(str(root), scope=(frozenset({"tiny"}), frozenset({"dense"})))

    def ask(sql, *parameters, **limits):
        with SqlProcess(setup) as process:
            return process.ask(sql, *parameters, **limits)

    assert ask("SELECT (SELECT count(*) FROM models) AS m, (SELECT count(*) FROM variants) AS v").to_pylist() == [
        {"m": 1, "v": 0}
    ]
    with pytest.raises(SqlError, match="^SQL: boom$"):
        ask("SELECT error('boom')")
    assert ask("SELECT i + $a::INT AS x FROM range(5) t(i)", {"a": 3}, rows=2)["x"].to_pylist() == [3, 4]
    assert ask("SELECT i, i AS i FROM range(250000) t(i)").num_rows == 250_000
    assert ask("SELECT list_sum(?) AS x, ? AS y, ? AS z", [[1, 2], None, "é"]).to_pylist() == [
        {"x": 3, "y": None, "z": "é"}
    ]
    for value in (datetime.date(2026, 1, 1), b"ab", {"a"}):
        with pytest.raises(SqlError, match="a parameter is not a number"):
            ask("SELECT ?", [value])


def test_a_format_is_written_within_the_limits(world):
    for to in (*FORMATS, "plain"):
        content, count = world.here_too.render("SELECT i, 'a' AS t FROM range(2500) t(i)", to=to, rows=2000)
        assert count == 2000
        assert content
    content, _ = world.here_too.render("SELECT 1 AS x, [true] AS y", to="plain")
    columns = [{"name": "x", "type": "int32"}, {"name": "y", "type": "list<l: bool>"}]
    assert json.loads(content) == {"columns": columns, "rows": [[1, [True]]]}
    with world.process() as process:
        assert process.render("SELECT 1 AS x WHERE false", to="csv") == (b"x\n", 0)
    with world.process() as process, pytest.raises(SqlSizeError, match="larger than 1 MiB"):
        process.render("SELECT repeat([true], 8000000)", to="json", size=1 << 20)
    with world.process() as process, pytest.raises((SqlTimeError, SqlSizeError)):
        process.render("SELECT list_resize([true], 10000, true) FROM range(1000)", to="latex", seconds=1)


def test_sql_that_exceeds_pythons_recursion_is_wrong(root):
    with pytest.raises(SqlError, match="^SQL: it is nested too deep$"):
        run_safe(root, """SELECT json_transform('[]', repeat('[', 20000) || '"INT"' || repeat(']', 20000))""")


def test_a_bug_in_the_process_is_no_error_of_the_sql(root):
    with SqlProcess(Setup(str(root))) as process, pytest.raises(RuntimeError, match="TypeError in the process for SQL"):
        process.render("SELECT 1", to="table", width="wide")


def test_a_process_that_cannot_start_says_why(root, monkeypatch):
    monkeypatch.setattr("prunescope.warehouse.catalogue.sql_process._MODULE", "no_such_module")
    with pytest.raises(SqlError, match="^the process for SQL failed: .*No module named no_such_module"):
        run_safe(root, "SELECT 1")


def test_a_statement_ends_when_its_process_is_closed(root):
    with SqlProcess(Setup(str(root))) as process:
        timer = threading.Timer(0.3, process.close)
        timer.start()
        with pytest.raises(SqlError, match="was stopped"):
            process.ask("SELECT count(*) FROM range(1000000) a, range(1000000) b")
        timer.join()


@pytest.mark.parametrize(
    "statements",
    [
        "",
        """
import threading, time
threading.Thread(target=process.ask, args=["SELECT sleep_ms(100000)"], kwargs={"seconds": 1}, daemon=True).start()
time.sleep(1)
""",
    ],
    ids=["idle", "with a statement"],
)
def test_the_process_ends_with_its_parent_or_with_the_time_of_its_statement(root, statements):
    code = f"""
import os, sys
from prunescope.warehouse.catalogue.sql_process import Setup, SqlProcess
process = SqlProcess(Setup({str(root)!r}))
{statements}
print(process._process.pid, flush=True)
os._exit(0)
"""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    number = int(found.stdout)
    for _ in range(50):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    pytest.fail("the process outlived its parent")


def test_a_damaged_file_is_left_out_with_a_warning(tmp_path):
    path = Store(tmp_path).path(TABLES["models"], "tiny", None)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1")
    with pytest.warns(DamagedFileWarning, match="^/.* is damaged .*run its study again"):
        assert run_safe(tmp_path, "FROM models").num_rows == 0


NUMBERS = ["1", "-1", "0", "9223372036854775807", "1000000", "1e308", "'nan'::DOUBLE", "true", "NULL", "model"]
OTHERS = ["'a'", "''", "'%'", "'(a+)+$'", "[1, 2]", "[]", "{'a': 1}", "map {'a': 1}", "'a'::BLOB"]
TIMES = ["date '2020-01-01'", "interval '1 day'", "'infinity'::TIMESTAMP"]
VALUES = st.sampled_from([*NUMBERS, *OTHERS, *TIMES])
# What sqlglot knows of any dialect, and what this DuckDB has.
FUNCTIONS = sorted(
    {name.lower() for name in sqlglot.exp.FUNCTION_BY_NAME}
    | {name for (name,) in duckdb.sql("SELECT DISTINCT function_name FROM duckdb_functions()").fetchall()}
)
OPERATORS = st.sampled_from(
    ["+", "-", "*", "/", "//", "%", "**", "||", "=", "<", "AND", "OR", "LIKE", "IN", "~", "->", "->>"]
)
EXPRESSIONS = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(FUNCTIONS), st.lists(inner, max_size=4)).map(
            lambda call: f'"{call[0]}"({", ".join(call[1])})'
        ),
        st.tuples(inner, OPERATORS, inner).map("({0[0]} {0[1]} {0[2]})".format),
        st.tuples(inner, inner, inner).map("CASE WHEN {0[0]} THEN {0[1]} ELSE {0[2]} END".format),
        st.tuples(inner, st.sampled_from(["INT", "VARCHAR", "JSON", "DOUBLE[]", "TIMESTAMP", "BIT"])).map(
            "TRY_CAST({0[0]} AS {0[1]})".format
        ),
        inner.map("(SELECT {} FROM models)".format),
        inner.map("list_transform([1, 2], lambda x: {})".format),
        inner.map("sum({}) OVER (ORDER BY 1)".format),
    ),
    max_leaves=8,
)
SOURCES = st.one_of(
    st.sampled_from(
        ["models", "variants", "range(3)", "variant_summary", "(SHOW TABLES)", "models m, variants v", "'x'"]
    ),
    st.tuples(st.sampled_from(FUNCTIONS), EXPRESSIONS).map('"{0[0]}"({0[1]})'.format),
)
STATEMENTS = st.recursive(
    st.tuples(EXPRESSIONS, SOURCES).map("SELECT {0[0]} AS x FROM {0[1]}".format),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["UNION ALL", "UNION", "EXCEPT", "INTERSECT"]), inner).map(" ".join),
        inner.map("WITH t AS ({}) SELECT * FROM t".format),
        inner.map("SELECT x, count(*) FROM ({}) GROUP BY CUBE (x) HAVING true ORDER BY ALL LIMIT 5".format),
        inner.map("FROM (PIVOT ({}) ON x IN (1, 'a') USING count(*))".format),
        inner.map("EXPLAIN {}".format),
        inner.map("SUMMARIZE {}".format),
        inner.map("WITH RECURSIVE t(x) AS ({0} UNION ALL SELECT x FROM t) SELECT count(*) FROM t".format),
    ),
    max_leaves=3,
)


@pytest.mark.exhaustive
@pytest.mark.timeout(900)  # 400 processes
@given(STATEMENTS)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_random_statement_is_answered_or_refused_in_one_line(world, sql):
    files = world.files()
    try:
        with world.process() as process:
            rows = process.ask(sql, seconds=1, rows=1000, size=16 << 20)
    except SqlError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both endings are right
    else:
        assert all(render(rows, to) for to in ("table", "csv"))
    assert world.files() == files
