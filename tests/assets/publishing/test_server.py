"""Tests of the explorer's server on a free port, with the requests of its pages and with hostile ones."""

import http.client
import io
import json
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.publishing.live_study import LiveStudy, studies
from prunescope.assets.publishing.server import ROWS
from prunescope.pipelines.reporting.charts.auto_chart import MAX_MARKS
from prunescope.pipelines.reporting.explorer.study_documents import document_name
from prunescope.warehouse.catalogue.comparison import compare
from prunescope.warehouse.core.errors import DamagedFileWarning
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.publishing.running_server import PATIENCE, Served, serving
from tests.assets.tiny_study import RECIPES, StudyFile

pytestmark = pytest.mark.integration
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(computed_once: Path) -> Iterator[Served]:
    with Served(computed_once) as server:
        yield server


def test_the_page_is_there_and_the_documents_that_its_index_names(served: Served) -> None:
    status, headers, page = served.ask(f"{served.home}/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert b"\x3c!doctype html>" in page[:20].lower()
    index = served.data("index")
    assert [variant["recipe"] for variant in index["variants"]] == ["dense", *sorted(set(RECIPES) - {"dense"})]
    names = ["sql", f"figures/{index['figures'][0]['name']}"]
    names += [document_name("variant", entry["id"]) for entry in index["variants"]]
    names += [document_name("trace", entry["id"], prompt) for entry in index["variants"] for prompt in entry["traces"]]
    assert sum(name.startswith("trace/") for name in names) == 2 * (len(RECIPES) - 1)
    for name in names:
        assert served.data(name), name


def test_the_box_answers_the_sql_of_the_sql_document(served: Served) -> None:
    statement = served.data("sql")["variants"]
    found = served.sql(statement["sql"])
    recipe = [column["name"] for column in found["columns"]].index("recipe")
    assert {row[recipe] for row in found["rows"]} == set(RECIPES)
    assert found["truncated"] is False
    assert found["seconds"] >= 0


def test_a_pair_has_the_numbers_of_the_command_and_of_its_sql(served: Served, computed_once: Path) -> None:
    one, other = (served.data("index")["variants"][n]["id"] for n in (1, 2))
    found = served.data(document_name("pair", one, other))
    [table] = [table for table in found["tables"] if table["sql"]["key"] == "compare/tokens"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    every = compare(computed_once, one, other).rows.to_pylist()
    expected = [row for row in every if not row["measured_on"].startswith("task ")]
    of_rows = {(row["measured_on"], row["temperature"], row["statistic"]): row["difference"] for row in expected}
    assert {"kl_mean_nats", "share_nearer"} <= {row["statistic"] for row in rows}
    assert "kl_median_nats" not in {row["statistic"] for row in rows}  # it has no paired error
    sql = re.sub(r"(?m)^--.*$", "", served.data("sql")["compare/tokens"]["sql"])
    for parameter, value in table["sql"]["where"].items():
        sql = sql.replace(parameter, repr(value))
    asked = served.sql(sql)
    columns = [column["name"] for column in asked["columns"]]
    answered = [dict(zip(columns, row, strict=True)) for row in asked["rows"]]
    assert len(answered) == len(expected)
    for row in rows:
        key = (row["measured_on"], row["temperature"], row["statistic"])
        assert row["difference"] == pytest.approx(of_rows[key], rel=1e-5)
        [same] = [one for one in answered if (one["measured_on"], one["temperature"], one["statistic"]) == key]
        assert row["difference"] == pytest.approx(same["difference"], rel=1e-5)


def test_values_of_every_kind_arrive_as_json_without_loss(served: Served) -> None:
    found = served.sql(
        """select 9007199254740993 as large, 'a' || chr(8238) || chr(0) as hostile, 'nan'::float as nan, null as none,
           date '2026-01-02' as day, interval 3 days as days, [interval 1 month] as spans,
           [1, null] as list, {'k': 'v'} as struct, '\\x01'::blob,
           0.1::float as small, repeat('x', 100000) as long"""
    )
    [row] = found["rows"]
    large, hostile, nan, none, day, days, spans, items, struct, blob, small, long = row
    assert large == "9007199254740993"
    assert hostile == "a⟨202E⟩⟨0⟩"
    assert (nan, none, day, days, items, struct, blob) == (
        "NaN",
        None,
        "2026-01-02",
        "3 days",
        [1, None],
        {"k": "v"},
        "01",
    )
    assert spans == "[1 month]"
    assert small == 0.1
    assert len(long) < 5000
    assert "of 100,000 characters shown" in long
    assert found["columns"][0] == {"name": "large", "type": "int64"}


def test_a_long_answer_is_cut_and_says_so(served: Served) -> None:
    for rows, is_truncated in ((ROWS, False), (ROWS + 1, True), (50_000_000, True)):
        found = served.sql(f"select i from range({rows}) t(i)")
        assert len(found["rows"]) == ROWS
        assert found["truncated"] is is_truncated
    assert "larger than 4 MiB" in served.sql("select repeat('x', 100000) from range(1000)")["error"]


def test_an_answer_can_be_kept_whole_and_drawn(served: Served) -> None:
    def ask(sql: str, to: object) -> tuple[int, dict[str, str], bytes]:
        return served.post({"sql": sql, "to": to})

    rows = f"select i, i * 0.5 as half, 'ß,' as text from range({ROWS + 7}) t(i)"
    _, headers, csv = ask(rows, "csv")
    assert headers["content-type"].startswith("text/csv")
    wanted = pl.DataFrame({"i": range(ROWS + 7)}).with_columns(half=pl.col("i") * 0.5, text=pl.lit("ß,"))
    assert pl.read_csv(io.BytesIO(csv)).equals(wanted)
    _, _, parquet = ask(rows, "parquet")
    assert pl.read_parquet(io.BytesIO(parquet)).equals(wanted)

    _, _, chart = ask("select 'r' || i as recipe, i * 0.5 as half from range(3) t(i)", "chart")
    spec = json.loads(chart)["spec"]
    assert "config" not in spec  # the page's own, light or dark
    [values] = spec["datasets"].values()
    assert [(row["recipe"], row["half"]) for row in values] == [("r0", 0.0), ("r1", 0.5), ("r2", 1.0)]
    for sql in ("from variants", "select 'a' as recipe, 1 as i, [1] as list, {'k': 1} as struct, now() as time"):
        assert json.loads(ask(sql, "chart")[2])["spec"]
    for sql, message in (
        ("select i * 0.5 as half from range(3) t(i)", "a chart needs a column of names"),
        ("select 'a' as recipe", "the answer has no column of numbers"),
        (f"select 'a' as recipe, i from range({MAX_MARKS + 1}) t(i)", "more than a picture shows"),
        ("select nothing from nowhere", "nowhere"),
    ):
        status, _, answer = ask(sql, "chart")
        assert status == 200
        assert message in json.loads(answer)["error"]
        assert "--chart" not in json.loads(answer)["error"]
    assert ask(rows, "xml")[0] == ask(rows, ["csv"])[0] == 400


def test_the_box_lists_each_table_once(served: Served) -> None:
    names = [row[0] for row in served.sql("show tables")["rows"]]
    assert len(set(names)) == len(names)
    assert {"variants", "variant_summary"} <= set(names)
    assert "variants_whole" not in names


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "rebound.example.org"}, 403),
        ({"Host": "127.0.0.1.example.org"}, 403),
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
def test_only_the_servers_own_pages_can_ask_sql(served: Served, headers: dict[str, str], code: int) -> None:
    status, answered, body = served.post({"sql": "select 1 as one"}, **headers)
    assert status == code
    assert "access-control-allow-origin" not in answered
    if code != 200:
        assert b"rows" not in body


def test_other_pages_and_other_methods_are_refused(served: Served) -> None:
    for path in ("/", f"{served.home}/", f"{served.home}/data/index.json", f"{served.home}/data/sql.json"):
        assert served.ask(path, Host="rebound.example.org")[0] == 403
        assert served.ask(path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
        assert served.ask(path, "POST", b"{}", **{"Content_Type": "application/json"})[0] == 405
    assert served.ask(f"{served.home}/sql")[0] == 405
    assert served.ask(f"{served.home}/sql", "OPTIONS", Origin="https://example.org")[0] == 403


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"select 1", 400),
        (b"[]", 400),
        (b'{"sql": 1}', 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 400),
        (json.dumps({"sql": "select 1 --" + "x" * 100_000}).encode(), 413),
    ],
)
def test_a_body_without_sql_is_refused(served: Served, body: bytes, code: int) -> None:
    status, _, answer = served.post(body)
    assert status == code
    assert json.loads(answer)["error"]


def test_a_body_without_end_is_not_read_to_its_end(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
        connection.sendall(
            b"POST /study/tiny/sql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9000000000\r\n\r\n" + b" " * 200_000
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "name",
    [
        *("nothing", "", "variant/", "variant/99", "variant/x", "variant/tiny%40none", "trace/1", "trace/1/99"),
        *(
            "trace/tiny-a%40dense/open",
            "figures/nothing",
            "figures/../index",
            "../index",
            "..%2f..%2fetc/passwd",
            "%00",
            "a" * 3000,
        ),
        *("index/", "/etc/passwd", "__class__", "\u202e"),
    ],
)
def test_an_unknown_document_is_status_404(served: Served, name: str) -> None:
    status, headers, body = served.ask(f"{served.home}/data/{quote(name, safe='/%')}.json")
    assert status == 404
    assert json.loads(body)["error"].isprintable()
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/../../etc/passwd",
        "/static/dom.js",
        "/data/index.json",
        "/sql",
        "/study/none/",
        "/study/tiny/data/index",
    ],
)
def test_other_paths_are_status_404(served: Served, path: str) -> None:
    assert served.ask(path)[0] == 404


def test_every_response_forbids_frames_sniffing_and_caching(served: Served) -> None:
    for path in ("/", f"{served.home}/", f"{served.home}/data/index.json", "/nothing"):
        _, headers, _ = served.ask(path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    _, headers, page = served.ask(f"{served.home}/")
    policy = headers["content-security-policy"]
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    # Both policies hold at once, so the page's own must let it ask this server too.
    assert b"connect-src &#39;self&#39;" in page


ENDLESS = "select count(*) from range(1000000) a, range(1000000) b"


def test_a_query_without_end_is_stopped(computed_once: Path) -> None:
    with Served(computed_once, seconds=0.5) as server:
        status, _, answer = server.post({"sql": ENDLESS})
        assert status == 408
        assert "ran longer than 0.5 s" in json.loads(answer)["error"]
        status, _, answer = server.post({"sql": "select list(i) from range(1000000000) t(i)"})
        assert status in {408, 413}
        assert server.sql("select 1 as one")["rows"] == [[1]]


def test_a_query_ends_when_its_client_leaves_and_others_wait_their_turn(computed_once: Path) -> None:
    with Served(computed_once) as server:
        # Two run and three wait.
        waiting = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE) for _ in range(5)]
        for connection in waiting:
            connection.request("POST", f"{server.home}/sql", json.dumps({"sql": ENDLESS}), JSON)
        time.sleep(0.5)
        last = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE / 2)
        last.request("POST", f"{server.home}/sql", json.dumps({"sql": "select 1 as one"}), JSON)
        for connection in waiting:
            connection.close()
        assert json.loads(last.getresponse().read())["rows"] == [[1]]
        last.close()
    assert not server.told


def test_a_new_variant_shows_on_reload_and_an_open_page_goes_on(warehouse: Path) -> None:
    kept = warehouse.parent / "kept"
    hidden = [path for path in warehouse.rglob("recipe=attn-drop-1") if path.is_dir()]
    for path in hidden:
        shutil.move(path, kept / path.relative_to(warehouse))
    with Served(warehouse) as server:
        before = server.data("index")
        known = document_name("variant", before["variants"][1]["id"])
        first = server.data(known)
        for path in hidden:
            shutil.move(kept / path.relative_to(warehouse), path)
        after = server.data("index")
        assert len(after["variants"]) == len(before["variants"]) + 1
        added = document_name("variant", "tiny-a@attn-drop-1")
        assert {"name": "method", "text": "attn-drop"} in server.data(added)["facts"]
        assert server.data(known) == first


@pytest.mark.exhaustive  # test_snapshot.py and test_object_store.py read beside a writer
def test_readers_are_not_disturbed_by_a_run_that_writes(warehouse: Path) -> None:
    [file] = (warehouse / "decoding_steps").rglob("recipe=wanda-2of4/*.parquet")
    content = file.read_bytes()
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            temporary = file.with_name(".temporary")
            temporary.write_bytes(content)
            temporary.replace(file)

    with Served(warehouse) as server, ThreadPoolExecutor(4) as pool:
        entry = server.data("index")["variants"][3]
        name = document_name("trace", entry["id"], entry["traces"][0])
        wanted = server.data(name)
        count = server.sql("select count(*) from decoding_steps")["rows"]
        writing = pool.submit(write)
        try:
            for _ in range(3):
                found = [
                    pool.submit(server.data, name),
                    pool.submit(server.sql, "select count(*) from decoding_steps"),
                ]
                assert found[0].result() == wanted
                assert found[1].result()["rows"] == count
        finally:
            done.set()
        writing.result()
        assert not server.told


def test_a_damaged_file_is_left_out_and_named(warehouse: Path) -> None:
    [file] = (warehouse / "generations").rglob("recipe=wanda-2of4/*.parquet")
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    with Served(warehouse) as server:
        file.write_bytes(bytes(content))
        with pytest.warns(DamagedFileWarning, match=rf"{re.escape(str(file))} is damaged"):
            status, _, _ = server.ask(f"{server.home}/data/index.json")
        assert status == 200
        with pytest.warns(DamagedFileWarning, match=rf"{re.escape(str(file))} is damaged"):
            found = server.sql("select distinct recipe from generations")
        assert {row[0] for row in found["rows"]} == set(RECIPES) - {"wanda-2of4"}


def test_the_response_to_a_bug_has_the_security_headers(warehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    with Served(warehouse) as server:
        monkeypatch.setattr(LiveStudy, "document", bug)
        monkeypatch.setattr(LiveStudy, "sql_setup", bug)
        for status, headers, body in (server.ask(f"{server.home}/data/index.json"), server.post({"sql": "select 1"})):
            assert status == 500
            assert json.loads(body)["error"].startswith("ZeroDivisionError")
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert len(server.told) == 2


def test_a_study_that_appears_later_is_served_without_a_restart(warehouse: Path) -> None:
    store, table = Store(warehouse), TABLES["variants"]
    path = store.path(table, "tiny-a", "magnitude-50")
    provenance = store.provenance(table, "tiny-a", "magnitude-50")
    assert provenance is not None
    frame = pl.read_parquet(path, hive_partitioning=False)

    def write_other() -> None:
        store.write(table, frame, replace(provenance, study="other & <b>"), "tiny-a", "magnitude-50")

    with Served(warehouse) as server:
        status, headers, _ = server.ask("/")
        assert (status, headers["location"]) == (307, "study/tiny/")
        write_other()
        status, _, page = server.ask("/")
        assert status == 200
        assert b"other &amp; &lt;b&gt;" in page
        place = f"/study/{quote('other & <b>', safe='')}"
        assert server.ask(f"{place}/")[0] == 200
        index = json.loads(server.ask(f"{place}/data/index.json")[2])
        assert {variant["recipe"] for variant in index["variants"]} == {"magnitude-50"}
        body = b'{"sql": "select recipe from variants"}'
        found = json.loads(server.ask(f"{place}/sql", "POST", body, **{"Content_Type": "application/json"})[2])
        assert found["rows"] == [["magnitude-50"]]
        assert server.ask("/study/none/")[0] == 404


def test_the_command_serves_until_ctrl_c_even_while_a_query_runs(computed_once: Path) -> None:
    with serving(computed_once) as (process, line):
        assert line.startswith("http://127.0.0.1:")
        assert "shows tiny of" in line
        connection = http.client.HTTPConnection("127.0.0.1", int(line.split(":")[2].split("/")[0]), timeout=PATIENCE)
        connection.request("POST", "/study/tiny/sql", json.dumps({"sql": ENDLESS}), JSON)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == "stopped\n"
        connection.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "has no variant of study 'nothing'; there are tiny"),
        (("demo",), "has no variant of study 'demo'; there are tiny"),
        (("nothing.yaml",), "nothing.yaml"),
    ],
)
def test_what_cannot_be_served_is_refused(
    computed_once: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(["serve", *arguments], Globals(warehouse=str(computed_once))) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_taken_port_and_an_empty_warehouse_are_refused(
    computed_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(["serve", "--port", port], Globals(warehouse=str(computed_once))) == 2
    assert f"127.0.0.1, port {port} cannot be used" in " ".join(capsys.readouterr().err.split())
    assert run(["serve"], Globals(warehouse=str(tmp_path / "none"))) == 2
    assert (
        f"no study has run in the warehouse {tmp_path / 'none'}; name another with --warehouse"
        in capsys.readouterr().err
    )


def test_a_users_study_is_found_by_its_file(computed_once: Path, study: StudyFile) -> None:
    [unknown], [known] = (studies(computed_once, name).values() for name in ("tiny", str(study.path)))
    assert unknown.build("index")["facts"][0]["name"] == "models"
    assert known.build("index")["facts"][0]["name"] == "study"
