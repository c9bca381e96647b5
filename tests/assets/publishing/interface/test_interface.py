"""The web interface as a user starts it: its pages, the runs that a click launches, and its end.

One interface for all tests, in their order: the last one kills it.
"""

import asyncio
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster import DagsterRunStatus
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.definitions import defs
from prunescope.assets.instance.instance import STUDY_TAG, WAREHOUSE_TAG, open_instance
from prunescope.assets.planning import steps
from prunescope.assets.publishing.interface.webserver import graphql_as_json, own_pages_only
from prunescope.warehouse.maintenance.diagnostics import diagnose
from prunescope.warehouse.tables import TABLES
from tests.assets.publishing.interface.browser_interface import PATIENCE, Interface, free_port, started
from tests.assets.tiny_study import (
    ANSWERS,
    RECIPES,
    VARIANT_TABLES,
    StudyFile,
    computing,
    materialized,
    partitions,
    written_since,
)
from tests.pipelines.reporting.explorer.browser_page import chromium

BY_COMMAND_LINE = ["dense", "magnitude-50", "wanda-2of4"]
NAVIGATION = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}


def listening() -> set[str]:
    """Return the addresses at which processes of this test listen."""
    found = [each for process in psutil.Process().children(recursive=True) for each in process.net_connections("inet")]
    return {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}


def status(port: int, method: str = "POST", path: str = "/graphql?query={version}", **headers: str) -> int:
    """Return the status of a request with these headers, whose names have _ for -; a POST is of JSON."""
    content = None
    if method == "POST":
        content, headers = json.dumps({"query": "{version}"}), {"Content_Type": "application/json"} | headers
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(
            method, path, content, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@dataclass
class Opened:
    """A running interface over a warehouse in which the parameter of one recipe has changed."""

    interface: Interface
    process: subprocess.Popen[bytes]
    study: StudyFile
    warehouse: Path


@pytest.fixture(scope="module")
def ui(
    port: int, tmp_path_factory: pytest.TempPathFactory, computed_once: Path, tiny_folder: Path, cache: Path
) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("ui")
    study = StudyFile(folder / "tiny.yaml", tiny_folder)
    warehouse = shutil.copytree(computed_once, folder / "warehouse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("DAGSTER_HOME", raising=False)
        change_magnitude(study, warehouse)
        for recipe in BY_COMMAND_LINE:
            computed_by_the_command_line(recipe, study, warehouse)
        running = started(warehouse, port)
        interface, process = running.__enter__()
    try:
        yield Opened(interface, process, study, warehouse)
    finally:
        running.__exit__(None, None, None)


@pytest.fixture
def interface(ui: Opened) -> Interface:
    return ui.interface


def change_magnitude(study: StudyFile, warehouse: Path) -> None:
    changed = {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}
    study.write(recipes=["dense", changed, "wanda-2of4", "attn-drop-1"])
    with open_instance(warehouse) as instance:
        assert materialized(instance, asks_for(study), ["recipe"], "magnitude-50").success


def computed_by_the_command_line(recipe: str, study: StudyFile, warehouse: Path) -> None:
    """Record the run that computed a variant in the history, as in a warehouse that was not moved.

    A later run of the study had another model.
    """
    tags = {STUDY_TAG: study.name, WAREHOUSE_TAG: str(warehouse), "dagster/partition": f"tiny-a|{recipe}"}
    with open_instance(warehouse) as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        for asked in ({}, {"models": ["another=somewhere"]}):
            config = asks_for(study)
            config["resources"]["study"]["config"] |= asked
            instance.create_run_for_job(job, status=DagsterRunStatus.SUCCESS, tags=tags, run_config=config)


def asks_for(study: StudyFile) -> dict[str, Any]:
    return {"resources": {"study": {"config": {"study": str(study.path)}}}}


def until(is_so: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


@pytest.mark.timeout(900)
@pytest.mark.integration
def test_the_interface_shows_the_graph_and_what_a_changed_recipe_makes_stale(interface: Interface, port: int) -> None:
    nodes = interface.ask("{ assetNodes { assetKey { path } groupName partitionKeys } }")["assetNodes"]
    shown = {node["assetKey"]["path"][-1]: node for node in nodes}
    assert set(TABLES) - {"imported_scores"} | {"recipe", "report", "hierarchy", "q01_spike_predictors"} < set(shown)
    assert sorted(shown["variants"]["partitionKeys"]) == sorted(f"tiny-a|{recipe}" for recipe in RECIPES)
    # The interface follows dependencies in its own copy of the graph, which would lose a mapping of ours.
    of_magnitude = {f"{table}[tiny-a|magnitude-50]" for table in VARIANT_TABLES}
    assert interface.stale() == of_magnitude | ANSWERS
    query = """query Causes($asset: [String!]!, $partition: String) {
        assetNodeOrError(assetKey: {path: $asset}) {
            ... on AssetNode { staleCauses(partition: $partition) { key { path } partitionKey reason } }
        }
    }"""
    changed = {"key": {"path": ["recipe"]}, "partitionKey": "magnitude-50", "reason": "has a new data version"}
    for asset, partition in (("text_tokens", "tiny-a|magnitude-50"), ("report", None)):
        causes = interface.ask(query, asset=[asset], partition=partition)["assetNodeOrError"]["staleCauses"]
        assert causes == [changed], asset
    assert listening() == {"127.0.0.1"}
    # Dagster executes a query in an address, so requests from other websites must be refused.
    assert status(port) == status(port, Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin") == 200
    assert status(port, "GET", "/", Sec_Fetch_Site="cross-site", **NAVIGATION) == 200
    assert status(port, "GET", "/", Sec_Fetch_Site="cross-site", **NAVIGATION | {"Sec_Fetch_Dest": "iframe"}) == 403
    assert status(port, "GET", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
    assert status(port, Sec_Fetch_Site="same-site") == status(port, Origin="https://example.org") == 403
    assert status(port, Sec_Fetch_Site="cross-site", **NAVIGATION) == 403
    assert status(port, Host=f"rebound.example.org:{port}") == 403
    assert status(port, "GET", Sec_Fetch_Site="cross-site", **NAVIGATION) == status(port, "GET") == 405
    assert status(port, Content_Type="text/plain") == 405


@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found as on Linux")
@pytest.mark.integration
@pytest.mark.exhaustive  # three variants again, one after the other, of which the click below makes one
def test_a_backfill_computes_its_variants_and_leaves_only_the_answers_stale(ui: Opened) -> None:
    keys = [f"tiny-a|{recipe}" for recipe in BY_COMMAND_LINE]
    backfill = ui.interface.backfill(list(steps.VARIANT_TABLES), keys)

    def ended() -> list[str]:
        return [run for run, status in ui.interface.runs_of(backfill).items() if status in {"SUCCESS", "FAILURE"}]

    until(lambda: len(ended()) == len(keys), lambda: ui.interface.runs_of(backfill))
    assert set(ui.interface.runs_of(backfill).values()) == {"SUCCESS"}
    until(lambda: not computing(psutil.Process(ui.process.pid)), lambda: "a run goes on after its end")
    assert ui.interface.stale() == ANSWERS


@pytest.fixture
def window() -> Iterator[webdriver.Chrome]:
    with chromium() as opened_window:
        opened_window.set_window_size(1400, 1000)
        yield opened_window


def press(window: webdriver.Chrome, text: str) -> None:
    """Click on a button as soon as it takes clicks."""

    def found(page: webdriver.Chrome) -> bool:
        buttons = page.find_elements(By.XPATH, f"//button[contains(., '{text}')]")
        ready = [each for each in buttons if each.is_displayed() and each.is_enabled()]
        if ready:
            ready[0].click()
        return bool(ready)

    moving = [StaleElementReferenceException, ElementClickInterceptedException]
    wait = WebDriverWait(window, PATIENCE, ignored_exceptions=moving)
    wait.until(found, f"no button {text!r}")


@pytest.mark.chromium
@pytest.mark.timeout(900)
@pytest.mark.integration
@pytest.mark.exhaustive  # Dagster's own pages; test_study_run.py executes the same jobs
def test_a_click_recomputes_a_variant_and_a_failed_run_is_re_executed_from_its_page(
    ui: Opened, window: webdriver.Chrome
) -> None:
    interface, before, earlier = ui.interface, partitions(ui.warehouse), ui.interface.newest()
    away = ui.study.path.rename(ui.study.path.with_suffix(".away"))
    window.get(f"{interface.address}/assets/variants?view=partitions&partition=tiny-a%7Cwanda-2of4")
    press(window, "Materialize…")
    press(window, "Launch 1 run")
    until(lambda: interface.newest() != earlier, lambda: window.find_element(By.TAG_NAME, "body").text)
    failed = interface.newest()
    until(lambda: interface.run(failed)[0] == "FAILURE", lambda: interface.run(failed))
    window.get(f"{interface.address}/runs/{failed}")
    WebDriverWait(window, PATIENCE).until(
        lambda page: str(ui.study.path) in page.find_element(By.TAG_NAME, "body").text
    )
    assert partitions(ui.warehouse) == before

    away.rename(ui.study.path)
    press(window, "Re-execute all")
    until(lambda: interface.newest() != failed, lambda: window.find_element(By.TAG_NAME, "body").text)
    interface.wait_for(interface.newest(), lambda status, _: status == "SUCCESS")
    assert written_since(before, ui.warehouse) == {"variants/model=tiny-a/recipe=wanda-2of4/part.parquet"}


@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found as on Linux")
@pytest.mark.integration
# test_engines.py writes the lines of its progress.
@pytest.mark.exhaustive
def test_a_run_reports_progress_and_cancelling_it_stops_its_computation(ui: Opened) -> None:
    interface, study, warehouse = ui.interface, ui.study, ui.warehouse
    before = partitions(warehouse)
    # Every window scores one token: the tiny model computes for minutes.
    study.write(texts=[{"id": "help", "source": "embedded", "context": 128, "stride": 1, "max_tokens": 50_000}])
    long = interface.launch(["text_tokens"], "tiny-a|dense", study.path)
    _, told = interface.wait_for(long, lambda _, lines: any("dense model on every text" in line for line in lines))
    assert any(line.startswith("tiny-a@dense texts: dense model on every text: ") for line in told)
    assert computing(psutil.Process(ui.process.pid))
    interface.terminate(long)
    interface.wait_for(long, lambda status, _: status == "CANCELED")
    until(lambda: not computing(psutil.Process(ui.process.pid)), lambda: "the cancelled run goes on")
    assert partitions(warehouse) == before
    assert not diagnose(warehouse)
    # The study measures no speed: nothing is loaded for it.
    following = interface.launch(["speed"], "tiny-a|dense", study.path)
    interface.wait_for(following, lambda status, _: status == "SUCCESS")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found as on Linux")
@pytest.mark.integration
@pytest.mark.exhaustive  # Dagster's own code server and daemon do it; test_study_run.py reads their settings
def test_a_run_whose_process_was_killed_is_started_again_and_ends(ui: Opened) -> None:
    interface, study = ui.interface, ui.study
    study.write(texts=[{"id": "help", "source": "embedded", "context": 128, "stride": 1, "max_tokens": 50_000}])
    killed = interface.launch(["text_tokens"], "tiny-a|dense", study.path)
    interface.wait_for(killed, lambda _, lines: any("dense model on every text" in line for line in lines))
    study.write(texts=[{"id": "help", "source": "embedded", "context": 16, "max_tokens": 16}])
    (process,) = computing(psutil.Process(ui.process.pid))
    process.kill()
    interface.wait_for(killed, lambda status, _: status == "FAILURE")
    until(lambda: interface.newest() != killed, lambda: interface.run(killed))
    interface.wait_for(interface.newest(), lambda status, _: status == "SUCCESS")


def below(process: subprocess.Popen[bytes], word: str) -> list[psutil.Process]:
    """Return the living descendants of a process with a word among their arguments."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if word in each.cmdline():
                found.append(each)
    return found


# test_signals.py kills a child's parent, test_interrupted.py ends the runs of dead processes.
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found as on Linux")
@pytest.mark.integration
def test_a_run_ends_with_a_killed_server_and_the_servers_with_the_interface(ui: Opened, port: int) -> None:
    ui.study.write(texts=[{"id": "help", "source": "embedded", "context": 128, "stride": 1, "max_tokens": 50_000}])
    long = ui.interface.launch(["text_tokens"], "tiny-a|attn-drop-1", ui.study.path)
    ui.interface.wait_for(long, lambda _, lines: any("dense model on every text" in line for line in lines))
    (process,) = computing(psutil.Process(ui.process.pid))
    (server_of_code,) = below(ui.process, "grpc")
    server_of_code.kill()
    until(lambda: not process.is_running(), lambda: "the run goes on")
    until(lambda: ui.interface.run(long)[0] in {"CANCELED", "FAILURE"}, lambda: ui.interface.run(long))
    children = below(ui.process, "prunescope.assets.publishing.interface.subprocesses")
    assert {"webserver", "daemon", "code-server"} <= {word for each in children for word in each.cmdline()}
    ui.process.kill()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert not alive
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        ("127.0.0.1", None, 200),  # port 80, which browsers omit
        ("localhost:3000", "http://localhost:3000", 200),
        ("scope.example.org", "https://scope.example.org", 200),
        ("[2001:db8::1]:3000", "http://[2001:db8::1]:3000", 200),
        ("[2001:db8::1]", None, 200),
        ("scope.example.org", "https://rebound.example.org", 403),
        ("rebound.example.org", None, 403),
        ("localhost:3000.rebound.example.org", None, 403),
        ("[::2]:3000", None, 403),
        ("", None, 403),
    ],
)
def test_the_interface_answers_to_its_own_host_names_only(
    host: str, origin: str | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNESCOPE_HOSTS", "Scope.example.org, [2001:db8::1]")
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"host": host} | ({"origin": origin} if origin else {})
    headers = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": "POST", "path": "/graphql", "headers": headers}
    asyncio.run(own_pages_only(PlainTextResponse("answered"))(scope, None, send))
    assert sent[0]["status"] == code


PAGE = "text/html,application/xhtml+xml"


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("POST", "/graphql", {"content-type": "application/json"}, 200),
        ("POST", "/graphql", {"content-type": "Application/JSON; charset=utf-8"}, 200),
        ("GET", "/graphql", {"accept": PAGE}, 200),
        ("GET", "/runs", {}, 200),
        ("GET", "/graphql", {}, 405),
        ("GET", "/behind/a/proxy/graphql/", {"accept": "*/*"}, 405),
        ("HEAD", "/graphql", {"accept": PAGE}, 405),
        ("POST", "/graphql", {}, 405),
        *(
            ("POST", "/graphql", {"content-type": kind, "accept": PAGE}, 405)
            for kind in (
                "text/plain",
                "application/graphql",
                "application/x-www-form-urlencoded",
                "text/plain; application/json",
            )
        ),
    ],
)
def test_graphql_is_executed_only_as_json_by_post(method: str, path: str, headers: dict[str, str], code: int) -> None:
    async def answers(scope: dict[str, Any], _: object, send: Callable[..., Any]) -> None:
        await PlainTextResponse("answered")(scope, None, send)

    client = TestClient(graphql_as_json(answers))
    assert client.request(method, path, headers={"accept": "*/*"} | headers).status_code == code


def test_a_taken_port_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["ui", "--port", str(port), "--warehouse", str(tmp_path)], Globals()) == 2
    assert "choose another with --port" in capsys.readouterr().err
