"""Tests of SQL in its own process: attacks end as expected, within the limits, and write nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunescope.warehouse.catalogue.sql_process import Setup, SqlProcess, run_safe
from prunescope.warehouse.core.errors import (
    DamagedFileError,
    DamagedFileWarning,
    SqlError,
    SqlSizeError,
    SqlTimeError,
    UnsafeSqlError,
)
from prunescope.warehouse.core.formats import FORMATS, render
from prunescope.warehouse.core.program import PACKAGE
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.warehouse.attacks import FOLDER, GIBIBYTES, Attack, attacks
from tests.warehouse.conftest import provenance_of, rows_of

# Attacks of one kind differ in what they ask for, not in the limit that ends them.
STOPPED_IN_EVERY_RUN = {
    "endless_with_recursive_t_i_as_select_1_union_all_sel",
    "endless_select_list_i_from_range_1000000000_t_i",
    "expression_select_repeat_a_4000000000",
    "expression_multiplied_bignums",
    "expression_select_damerau_levenshtein_repeat_ab_20000_r",
    "parser_unclosed_with_12",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("attacked") / "warehouse")
    for name, recipe in (("models", None), ("variants", "wanda-50")):
        store.write(TABLES[name], rows_of(TABLES[name], "tiny", recipe), provenance_of("tiny", recipe), "tiny", recipe)
    return store.root


class Processes:
    """One process after the other: a new one where an attack ended the last."""

    def __init__(self, root):
        self.root, self.process = root, None

    def now(self):
        if self.process is None or not self.process.is_alive:
            self.close()
            self.process = SqlProcess(Setup(str(self.root), GIBIBYTES))
            self.process.ask("SELECT 1")
        return self.process

    def close(self):
        if self.process is not None:
            self.process.close()


@pytest.fixture(scope="module")
def processes(root):
    found = Processes(root)
    yield found
    found.close()


def memory_of(process, field):
    status = Path(f"/proc/{process._process.pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 2**20


def run(process: SqlProcess, attack: Attack) -> None:
    try:
        rows = process.ask(attack.sql, seconds=attack.seconds, rows=1000, size=16 << 20).num_rows
    except SqlError as error:
        attack.check(str(error), 0, isinstance(error, UnsafeSqlError))
    else:
        attack.check(None, rows)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            attack,
            id=attack.name,
            marks=[pytest.mark.exhaustive]
            if attack.expected == "stopped" and attack.name not in STOPPED_IN_EVERY_RUN
            else [],
        )
        for attack in attacks("{root}")
    ],
)
def test_an_attack_ends_as_it_must(processes, root, attack):
    process = processes.now()
    before = memory_of(process, "VmRSS")
    started = time.monotonic()
    run(process, Attack(attack.name, attack.expected, attack.sql.replace("{root}", str(root))))
    if attack.expected == "stopped":
        assert time.monotonic() - started < 10
    if process.is_alive:
        assert memory_of(process, "VmHWM") < before + 1.2 * GIBIBYTES + 0.05


KEEPING = """
import mmap
from prunescope.warehouse.core import confinement

print(confinement.memory_left())
confinement.limit_memory(0.5)
print(confinement.memory_left())
kept = mmap.mmap(-1, 3 << 27)
print(confinement.memory_left())
"""


def test_address_space_that_stays_with_a_process_counts_as_used():
    found = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, check=True)
    unlimited, whole, left = map(float, found.stdout.split())
    assert unlimited == float("inf")
    assert (whole, left) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.125, abs=0.02))


@pytest.mark.parametrize(("numbers", "goes_on"), [(10, True), (6_000_000, False)])
def test_a_process_that_keeps_half_of_its_memory_answers_no_further_statement(root, numbers, goes_on):
    with SqlProcess(Setup(str(root), GIBIBYTES)) as process:
        found = process.ask(f"SELECT count(*) AS n FROM (SELECT DISTINCT range FROM range({numbers}))")
        assert found.to_pylist() == [{"n": numbers}]
        assert process.is_alive is goes_on


def test_no_attack_wrote_a_file(processes, root):
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {"models/model=tiny/part.parquet", "variants/model=tiny/recipe=wanda-50/part.parquet"}
    assert len(list(FOLDER.glob("*.sql"))) >= 150


INSIDE = """
import os, socket, subprocess, sys
from pathlib import Path
from prunescope.warehouse.catalogue import sql_worker
from prunescope.warehouse.catalogue.sql_process import Setup

root, other = sys.argv[1:]
connection = sql_worker._open(Setup(root), sql_worker._prepare())

def attempt(name, action):
    try:
        action()
        print(name, "succeeded")
    except OSError as error:
        print(name, "failed")

attempt("write here", lambda: Path(root, "models", "x").write_text("x"))
attempt("append there", lambda: open(Path(other, "file.txt"), "a"))
attempt("remove", lambda: os.remove(Path(other, "file.txt")))
attempt("read", lambda: Path(other, "file.txt").read_text())
attempt("list", lambda: os.listdir(other))
attempt("make a folder", lambda: os.mkdir(Path(other, "folder")))
attempt("start a program", lambda: subprocess.run(["/bin/true"]))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", int(Path(root, "port").read_text())), 2))
attempt("send", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9)))
attempt("memory", lambda: None)
print(connection.execute("SELECT count(*) FROM models").fetchall())
try:
    bytearray(4 << 30)
    print("allocate succeeded")
except MemoryError:
    print("allocate failed")
"""


@pytest.mark.namespaces
def test_the_process_can_read_the_warehouse_and_nothing_else(root, tmp_path):
    import socket

    (tmp_path / "file.txt").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        (root / "port").write_text(str(server.getsockname()[1]))
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
        found = subprocess.run(
            [sys.executable, "-P", "-c", INSIDE, str(root), str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    (root / "port").unlink()
    lines = found.stdout.splitlines()
    assert [line for line in lines if line.endswith("succeeded")] == ["memory succeeded"], found.stdout
    assert len(lines) == 12, found.stderr
    assert "[(1,)]" in lines
    assert (tmp_path / "file.txt").read_text() == "secret"


def test_a_process_answers_many_statements_and_shows_only_its_scope(root):
    with SqlProcess(Setup(str(root), scope=(frozenset({"tiny"}), frozenset({"dense"})))) as process:
        assert process.ask("SELECT count(*) AS n FROM models").to_pylist() == [{"n": 1}]
        assert process.ask("FROM variants").num_rows == 0
        with pytest.raises(SqlError, match="^SQL: boom$"):
            process.ask("SELECT error('boom')")
        assert process.ask("SELECT $a::INT + 1 AS x", {"a": 3}).to_pylist() == [{"x": 4}]
        assert process.ask("FROM range(5) t(i)", rows=2)["i"].to_pylist() == [0, 1]
        assert process.ask("SELECT i, i AS i FROM range(250000) t(i)").num_rows == 250_000
        assert process.ask("SELECT 1 AS x WHERE false").schema.names == ["x"]
    assert not process.is_alive


def test_a_format_is_written_within_the_limits(root):
    with SqlProcess(Setup(str(root), GIBIBYTES)) as process:
        for to in (*FORMATS, "plain"):
            content, count = process.render("SELECT i, 'a' AS t FROM range(2500) t(i)", to=to, rows=2000)
            assert count == 2000
            assert content
        content, _ = process.render("SELECT 1 AS x, [true] AS y", to="plain")
        columns = [{"name": "x", "type": "int32"}, {"name": "y", "type": "list<l: bool>"}]
        assert json.loads(content) == {"columns": columns, "rows": [[1, [True]]]}
        assert process.render("SELECT 1 AS x WHERE false", to="csv") == (b"x\n", 0)
        with pytest.raises(SqlSizeError, match="larger than 1 MiB"):
            process.render("SELECT repeat([true], 8000000)", to="json", size=1 << 20)
        with pytest.raises((SqlTimeError, SqlSizeError)):
            process.render("SELECT list_resize([true], 10000, true) FROM range(1000)", to="latex", seconds=1)


def test_a_stopped_process_ends_with_its_time(root):
    with SqlProcess(Setup(str(root))) as process:
        process.ask("SELECT 1")
        os.kill(process._process.pid, signal.SIGSTOP)
        with pytest.raises(SqlTimeError, match="ran longer than 0.2 s"):
            process.ask("SELECT 1", seconds=0.2)
        assert not process.is_alive


def test_a_killed_process_is_not_alive(root):
    with SqlProcess(Setup(str(root))) as process:
        process.ask("SELECT 1")
        process._process.kill()
        process._process.wait()
        assert not process.is_alive


def test_sql_that_exceeds_pythons_recursion_is_wrong_and_the_process_goes_on(root):
    with SqlProcess(Setup(str(root))) as process:
        with pytest.raises(SqlError, match="^SQL: it is nested too deep$"):
            process.ask("""SELECT json_transform('[]', repeat('[', 20000) || '"INT"' || repeat(']', 20000))""")
        assert process.ask("SELECT 1 AS x").to_pylist() == [{"x": 1}]


def test_a_bug_in_the_process_is_no_error_of_the_sql(root):
    with SqlProcess(Setup(str(root))) as process:
        with pytest.raises(RuntimeError, match="TypeError in the process for SQL"):
            process.render("SELECT 1", to="table", width="wide")
        assert process.ask("SELECT 1 AS x").to_pylist() == [{"x": 1}]


def test_a_fifo_in_place_of_a_partition_is_named(tmp_path):
    path = Store(tmp_path).path(TABLES["models"], "tiny", None)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.warns(DamagedFileWarning, match="no regular file"):
        assert run_safe(tmp_path, "FROM variants").num_rows == 0


def test_a_cancelled_statement_ends_at_once(root):
    with SqlProcess(Setup(str(root))) as process:
        process.ask("SELECT 1")
        timer = threading.Timer(0.3, process.cancel)
        timer.start()
        with pytest.raises(SqlError, match="was stopped"):
            process.ask("SELECT count(*) FROM range(1000000) a, range(1000000) b")
        timer.join()


def test_the_process_ends_with_its_parent(root):
    code = f"""
import os, sys
from prunescope.warehouse.catalogue.sql_process import Setup, SqlProcess
process = SqlProcess(Setup({str(root)!r}))
process.ask("SELECT 1")
print(process._process.pid, flush=True)
os._exit(0)
"""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    number = int(found.stdout)
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    pytest.fail("the process outlived its parent")


def test_a_damaged_warehouse_warns_and_fails_only_where_it_is_read(tmp_path):
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
@given(STATEMENTS)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_random_statement_is_answered_or_refused_in_one_line(processes, root, sql):
    process = processes.now()
    before = memory_of(process, "VmRSS")
    try:
        rows = process.ask(sql, seconds=1, rows=1000, size=16 << 20)
    except SqlError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both endings are right
    else:
        assert all(render(rows, to) for to in ("table", "csv"))
    if process.is_alive:
        assert memory_of(process, "VmHWM") < before + 1.2 * GIBIBYTES + 0.05
    assert {path.name for path in root.rglob("*") if path.is_file()} == {"part.parquet"}
