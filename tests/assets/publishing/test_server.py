"""Tests of the explorer's server on a free port, with the requests of its pages and with hostile ones."""

import io
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.publishing.live_study import LiveStudy
from prunescope.assets.publishing.server import ROWS
from prunescope.pipelines.reporting.charts.auto_chart import MAX_MARKS
from prunescope.pipelines.reporting.explorer.study_documents import document_name
from prunescope.warehouse.core.errors import DamagedFileWarning
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.publishing.running_server import ENDLESS, PATIENCE, Served, begun, request
from tests.assets.tiny_study import RECIPES, StudyFile

pytestmark = pytest.mark.integration
HOME = "/study/tiny/"
SELECT = b'{"sql": "select 1 as one"}'
# What the box shows of a value.
SHOWN = {
    "9007199254740993": "9007199254740993",
    "'a' || chr(8238) || chr(0)": "a⟨202E⟩⟨0⟩",
    "'nan'::float": "NaN",
    "null": None,
    "date '2026-01-02'": "2026-01-02",
    "interval 3 days": "3 days",
    "[interval 1 month]": "[1 month]",
    "[1, null]": [1, None],
    "{'k': 'v'}": {"k": "v"},
    "'\\x01'::blob": "01",
    "0.1::float": 0.1,
}


@pytest.fixture(scope="module")
def served(computed_once: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a study by its file."""
    study = StudyFile(tmp_path_factory.mktemp("study") / "tiny.yaml", tiny_folder)
    with Served(computed_once, str(study.path)) as server:
        yield server
    assert not server.told


@pytest.fixture(scope="module")
def changing(computed_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a warehouse, whose studies' files are unknown, and in which each test changes something else."""
    ignored = shutil.ignore_patterns("*-wal", "*-shm")
    with Served(shutil.copytree(computed_once, tmp_path_factory.mktemp("served") / "w", ignore=ignored)) as server:
        yield server
    assert not server.told


def assert_guarded(headers: dict[str, str]) -> None:
    """Check what every response forbids: frames, sniffing and caching."""
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert {"frame-ancestors 'none'", "default-src 'none'"} <= set(headers["content-security-policy"].split("; "))
    assert "server" not in headers


def test_the_page_is_there_and_the_documents_that_its_index_names(served: Served) -> None:
    status, headers, page = served.ask(HOME)
    assert status == 200
    assert_guarded(headers)
    assert headers["content-type"].startswith("text/html")
    assert "unsafe" not in headers["content-security-policy"]
    assert b"\x3c!doctype html>" in page[:20].lower()
    # Both policies hold at once, so the page's own must let it ask this server too.
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert b"connect-src &#39;self&#39;" in page
    index = served.data("index")
    assert [variant["recipe"] for variant in index["variants"]] == RECIPES
    assert index["facts"][0]["name"] == "study"
    names = ["sql", f"figures/{index['figures'][0]['name']}"]
    names += [document_name("variant", entry["id"]) for entry in index["variants"]]
    names += [document_name("trace", entry["id"], prompt) for entry in index["variants"] for prompt in entry["traces"]]
    assert sum(name.startswith("trace/") for name in names) == 2 * (len(RECIPES) - 1)
    for name in names:
        assert served.data(name), name


def test_the_box_answers_the_sql_of_the_sql_document_and_lists_each_table_once(served: Served) -> None:
    found = served.sql(served.data("sql")["variants"]["sql"])
    recipe = [column["name"] for column in found["columns"]].index("recipe")
    assert {row[recipe] for row in found["rows"]} == set(RECIPES)
    assert found["truncated"] is False
    assert found["seconds"] >= 0
    names = [row[0] for row in served.sql("show tables")["rows"]]
    assert len(set(names)) == len(names)
    assert {"variants", "variant_summary"} <= set(names)
    assert "variants_whole" not in names


def test_the_sql_of_a_pair_gives_the_numbers_that_its_page_shows(served: Served) -> None:
    def differences(columns: list[str], rows: list[list[object]]) -> dict[tuple[object, ...], object]:
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        return {(row["measured_on"], row["temperature"], row["statistic"]): row["difference"] for row in named}

    # test_explorer.py compares them with the command's.
    pair = document_name("pair", *(served.data("index")["variants"][n]["id"] for n in (1, 2)))
    [table] = [table for table in served.data(pair)["tables"] if table["sql"]["key"] == "compare/tokens"]
    sql = re.sub(r"(?m)^--.*$", "", served.data("sql")["compare/tokens"]["sql"])
    for parameter, value in table["sql"]["where"].items():
        sql = sql.replace(parameter, repr(value))
    asked = served.sql(sql)
    answered = differences([column["name"] for column in asked["columns"]], asked["rows"])
    shown = differences(table["columns"], table["rows"])
    assert {"kl_mean_nats", "share_nearer"} <= {statistic for _, _, statistic in shown}
    assert shown == pytest.approx({key: answered[key] for key in shown}, rel=1e-5)


def test_values_of_every_kind_arrive_as_json_without_loss(served: Served) -> None:
    found = served.sql(f"select {', '.join(SHOWN)}, repeat('x', 100000)")
    [[*values, long]] = found["rows"]
    assert values == list(SHOWN.values())
    assert len(long) < 5000
    assert "of 100,000 characters shown" in long
    assert served.sql("select 9007199254740993 as large")["columns"] == [{"name": "large", "type": "int64"}]


def test_a_long_answer_is_cut_and_says_so(served: Served) -> None:
    for rows, is_truncated in ((ROWS, False), (ROWS + 1, True), (50_000_000, True)):
        found = served.sql(f"select i from range({rows}) t(i)")
        assert len(found["rows"]) == ROWS
        assert found["truncated"] is is_truncated
    assert "larger than 4 MiB" in served.sql("select repeat('x', 100000) from range(1000)")["error"]


def test_an_answer_can_be_kept_whole_and_drawn(served: Served) -> None:
    rows = f"select i, i * 0.5 as half, 'ß,' as text from range({ROWS + 7}) t(i)"
    wanted = pl.DataFrame({"i": range(ROWS + 7)}).with_columns(half=pl.col("i") * 0.5, text=pl.lit("ß,"))
    _, headers, csv = served.post({"sql": rows, "to": "csv"})
    assert headers["content-type"].startswith("text/csv")
    assert pl.read_csv(io.BytesIO(csv)).equals(wanted)
    assert pl.read_parquet(io.BytesIO(served.post({"sql": rows, "to": "parquet"})[2])).equals(wanted)

    def chart(sql: str) -> dict[str, Any]:
        status, _, answer = served.post({"sql": sql, "to": "chart"})
        assert status == 200
        return json.loads(answer)

    spec = chart("select 'r' || i as recipe, i * 0.5 as half from range(3) t(i)")["spec"]
    assert "config" not in spec  # the page's own, light or dark
    [values] = spec["datasets"].values()
    assert [(row["recipe"], row["half"]) for row in values] == [("r0", 0.0), ("r1", 0.5), ("r2", 1.0)]
    for sql in ("from variants", "select 'a' as recipe, 1 as i, [1] as list, {'k': 1} as struct, now() as time"):
        assert chart(sql)["spec"]
    for sql, message in (
        ("select i * 0.5 as half from range(3) t(i)", "a chart needs a column of names"),
        (f"select 'a' as recipe, i from range({MAX_MARKS + 1}) t(i)", "more than a picture shows"),
        ("select nothing from nowhere", "nowhere"),
    ):
        assert message in chart(sql)["error"]


# test_origin_guard.py has the guard's every rule.
@pytest.mark.parametrize(
    "headers",
    [{"Host": "rebound.example.org"}, {"Origin": "https://example.org"}, {"Sec_Fetch_Site": "cross-site"}],
    ids=str,
)
def test_other_websites_reach_nothing(served: Served, headers: dict[str, str]) -> None:
    asked = [("GET", path, None) for path in ("/", HOME, f"{HOME}data/index.json")]
    for method, path, body in (*asked, ("POST", f"{HOME}sql", SELECT), ("OPTIONS", f"{HOME}sql", None)):
        status, answered, _ = served.ask(path, method, body, Content_Type="application/json", **headers)
        assert status == 403, (method, path)
        assert_guarded(answered)
        assert "access-control-allow-origin" not in answered


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (SELECT, "application/json; charset=utf-8", 200),
        *((SELECT, kind, 415) for kind in ("text/plain", "application/x-www-form-urlencoded", "")),
        *(
            (body, "application/json", 400)
            for body in (b"", b"select 1", b"[]", b'{"sql": 1}', b"\xff\xfe", b"[" * 60_000)
        ),
        *((b'{"sql": "select 1", "to": %s}' % to, "application/json", 400) for to in (b'"xml"', b'["csv"]')),
        (SELECT + b" " * 100_000, "application/json", 413),
    ],
    ids=range(13),
)
def test_the_box_takes_sql_as_json_only(served: Served, body: bytes, kind: str, code: int) -> None:
    status, _, answer = served.post(body, Content_Type=kind, Sec_Fetch_Site="same-origin")
    assert status == code
    assert json.loads(answer)["rows" if code == 200 else "error"]


def test_a_body_without_end_is_not_read_to_its_end(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(request(f"POST {HOME}sql", b" " * 200_000, length=9_000_000_000))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        *(("POST", path, 405) for path in ("/", "", "data/index.json")),
        ("GET", "sql", 405),
        *(
            ("GET", path, 404)
            for path in ("/nothing", "/../../etc/passwd", "/static/dom.js", "/data/index.json", "/sql", "/study/none/")
        ),
        ("GET", "data/index", 404),
        *(
            ("GET", f"data/{name}.json", 404)
            for name in (
                *("nothing", "", "variant/tiny%40none", "index/", "figures/../index", "../index", "/etc/passwd"),
                *("..%2f..%2fetc/passwd", "%00", "a" * 3000, quote("\u202e")),
            )
        ),
    ],
)
def test_other_paths_and_methods_are_refused(served: Served, method: str, path: str, code: int) -> None:
    body = b"{}" if method == "POST" else None
    status, headers, answer = served.ask(path if path.startswith("/") else HOME + path, method, body)
    assert status == code
    assert_guarded(headers)
    assert headers["content-type"] == "application/json"
    assert json.loads(answer)["error"].isprintable()


def test_a_query_ends_when_its_client_leaves_and_others_wait_their_turn(served: Served) -> None:
    # Two run and three wait.
    waiting = [begun(served.port, ENDLESS) for _ in range(5)]
    time.sleep(0.5)
    last = begun(served.port, "select 1 as one", PATIENCE / 2)
    for connection in waiting:
        connection.close()
    assert json.loads(last.getresponse().read())["rows"] == [[1]]
    last.close()


def test_the_response_to_a_bug_is_guarded_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(LiveStudy, "document", bug)
    monkeypatch.setattr(LiveStudy, "sql_setup", bug)
    for status, headers, body in (served.ask(f"{HOME}data/index.json"), served.post({"sql": "select 1"})):
        assert status == 500
        assert json.loads(body)["error"].startswith("ZeroDivisionError")
        assert_guarded(headers)
    assert len(served.told) == 2
    served.told.clear()


def test_a_new_variant_shows_on_reload_and_an_open_page_goes_on(changing: Served, tmp_path: Path) -> None:
    added, known = (document_name("variant", f"tiny-a@{recipe}") for recipe in ("attn-drop-1", "wanda-2of4"))
    hidden = [path for path in changing.root.rglob("recipe=attn-drop-1") if path.is_dir()]
    for path in hidden:
        shutil.move(path, tmp_path / path.relative_to(changing.root))
    first = changing.data(known)
    assert changing.ask(f"{HOME}data/{quote(added)}.json")[0] == 404
    for path in hidden:
        shutil.move(tmp_path / path.relative_to(changing.root), path)
    assert {"name": "method", "text": "attn-drop"} in changing.data(added)["facts"]
    assert changing.data(known) == first
    index = changing.data("index")
    assert [variant["recipe"] for variant in index["variants"]] == ["dense", *sorted(set(RECIPES) - {"dense"})]
    assert index["facts"][0]["name"] == "models"


@pytest.mark.exhaustive  # test_snapshot.py and test_object_store.py read beside a writer
def test_readers_are_not_disturbed_by_a_run_that_writes(changing: Served) -> None:
    [file] = (changing.root / "decoding_steps").rglob("recipe=wanda-2of4/*.parquet")
    content, count = file.read_bytes(), "select count(*) from decoding_steps"
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            temporary = file.with_name(".temporary")
            temporary.write_bytes(content)
            temporary.replace(file)

    trace = document_name("trace", "tiny-a@wanda-2of4", "open")
    wanted = changing.data(trace), changing.sql(count)["rows"]
    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write)
        try:
            for _ in range(3):
                document, answer = pool.submit(changing.data, trace), pool.submit(changing.sql, count)
                assert (document.result(), answer.result()["rows"]) == wanted
        finally:
            done.set()
        writing.result()


def test_a_damaged_file_is_left_out_and_named(changing: Served) -> None:
    [file] = (changing.root / "generations").rglob("recipe=wanda-2of4/*.parquet")
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(196) + content[200:])
    named = rf"{re.escape(str(file))} is damaged"
    with pytest.warns(DamagedFileWarning, match=named):
        changing.data("index")
    with pytest.warns(DamagedFileWarning, match=named):
        found = changing.sql("select distinct recipe from generations")
    assert {row[0] for row in found["rows"]} == set(RECIPES) - {"wanda-2of4"}
    file.write_bytes(content)


def test_a_study_that_appears_later_is_served_without_a_restart(changing: Served) -> None:
    status, headers, _ = changing.ask("/")
    assert (status, headers["location"]) == (307, "study/tiny/")
    store, table = Store(changing.root), TABLES["variants"]

    def appears(study: str, recipe: str) -> None:
        frame = pl.read_parquet(store.path(table, "tiny-a", recipe), hive_partitioning=False)
        made = replace(store.provenance(table, "tiny-a", recipe), study=study)
        store.write(table, frame, made, "tiny-a", recipe)

    appears("later", "attn-drop-1")
    assert changing.ask("/study/later/")[0] == 200, "by its address, before the list is asked"
    appears("other & <b>", "magnitude-50")
    status, _, page = changing.ask("/")
    assert status == 200
    assert b"other &amp; &lt;b&gt;" in page
    changing.home = f"/study/{quote('other & <b>', safe='')}/"
    assert changing.ask(changing.home)[0] == 200
    assert {variant["recipe"] for variant in changing.data("index")["variants"]} == {"magnitude-50"}
    assert changing.sql("select recipe from variants")["rows"] == [["magnitude-50"]]


def test_what_cannot_be_served_is_refused(warehouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (["serve", "nothing"], "has no variant of study 'nothing'; there are tiny"),
            (["serve", "demo"], "has no variant of study 'demo'; there are tiny"),
            (["serve", "nothing.yaml"], "nothing.yaml"),
            (["serve", "--port", port], f"127.0.0.1, port {port} cannot be used"),
            (["ui", "--port", port], "choose another with --port"),
        ):
            assert run(arguments, Globals(warehouse=str(warehouse))) == 2
            assert message in " ".join(capsys.readouterr().err.split())
