"""Attacks on a running server: hostile SQL, many clients, and its end while they go on."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.assets.publishing.running_server import ENDLESS, Served, begun, request, serving
from tests.warehouse.attacks import Attack, attacks

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def served(computed_once: Path) -> Iterator[Served]:
    with Served(computed_once, seconds=30) as server:
        yield server
    assert not server.told


@pytest.fixture(scope="module")
def impatient(computed_once: Path) -> Iterator[Served]:
    with Served(computed_once, seconds=1) as server:
        yield server
    assert not server.told


@pytest.mark.parametrize(
    "attack",
    [
        # Those of one kind differ for DuckDB and not for the server; test_sql_process.py runs all.
        pytest.param(
            attack, id=attack.name, marks=[pytest.mark.exhaustive] if attack.expected == "stopped" or index % 6 else []
        )
        for index, attack in enumerate(attacks())
    ],
)
def test_the_server_answers_an_attack_as_the_command_does(
    served: Served, impatient: Served, computed_once: Path, tmp_path: Path, attack: Attack
) -> None:
    server = impatient if attack.expected == "stopped" else served
    body = json.dumps({"sql": attack.at(computed_once, tmp_path).sql}).encode()
    status, headers, content = server.post(body)
    assert headers["content-type"] == "application/json"
    answer = json.loads(content)
    assert "Traceback" not in answer.get("error", "")
    if len(body) > 64 << 10:
        assert status == 413
        return
    attack.check(answer.get("error"), len(answer.get("rows", [])))


def test_a_query_without_end_is_stopped(impatient: Served) -> None:
    status, _, answer = impatient.post({"sql": ENDLESS})
    assert status == 408
    assert "ran longer than 1 s" in json.loads(answer)["error"]
    assert impatient.post({"sql": "select list(i) from range(1000000000) t(i)"})[0] in {408, 413}
    assert impatient.sql("select 1 as one")["rows"] == [[1]]


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("select repeat([true], 8000000)", marks=pytest.mark.exhaustive),  # one of the lists below
        "select list_resize([true], 65000, true) from range(1000)",
        "select " + ", ".join(f"{{'a': true}} as c{i}" for i in range(1000)) + " from range(1001)",
    ],
    ids=["list", "lists", "columns"],
)
def test_an_answer_that_is_small_in_arrow_and_large_in_json_has_limits(served: Served, sql: str) -> None:
    found = served.sql(sql)
    assert any(said in found["error"] for said in ("larger than 4 MiB", "ran longer than", "needs more memory"))


def test_headers_have_a_limit_for_each_request(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 70_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    with served.connect() as connection:
        for _ in range(50):  # the headers of one connection's requests do not add up
            connection.sendall(request("GET /nothing", extra=f"X: {'x' * 10_000}\r\n"))
            assert b"HTTP/1.1 404 " in connection.recv(10_000)


@pytest.mark.parametrize("sent", [b"", b'{"sql": "select'])
def test_a_client_that_leaves_within_its_body_is_no_bug(served: Served, sent: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(request("POST /study/tiny/sql", sent, length=60))
        time.sleep(0.2)
    assert served.ask("/nothing")[0] == 404
    assert not served.told


@pytest.mark.parametrize("sql", ["", "select repeat('x', 900) from range(900)"], ids=["GET", "POST"])
def test_a_client_that_pipelines_and_reads_nothing_is_no_bug(served: Served, sql: str) -> None:
    asked = request("GET /study/tiny/data/index.json")
    if sql:
        asked = request("POST /study/tiny/sql", json.dumps({"sql": sql}).encode())
    with served.connect(timeout=1) as connection:
        with suppress(TimeoutError):
            connection.sendall(asked * 2000)
        time.sleep(1)
    time.sleep(1)
    assert served.ask("/nothing")[0] == 404
    assert not served.told


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, "stopped\n"), (signal.SIGTERM, -signal.SIGTERM, "")],
    ids=["SIGINT", "SIGTERM"],
)
def test_the_command_ends_within_five_seconds_whatever_runs(
    computed_once: Path, number: signal.Signals, code: int, told: str
) -> None:
    with serving(computed_once) as (process, line):
        assert line.startswith("http://127.0.0.1:")
        assert "shows tiny of" in line
        port = int(line.split(":")[2].split("/")[0])
        hostile = [ENDLESS, "with a as (" * 12, "select repeat('9', 10000000)::bignum ** 2"]
        clients = [begun(port, sql) for sql in hostile * 2]
        clients += [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        time.sleep(1)
        process.send_signal(number)
        assert process.wait(5) == code
        for client in clients:
            client.close()
        assert process.stderr.read() == told
