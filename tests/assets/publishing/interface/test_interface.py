"""The web interface as a user starts it: its pages, the runs that a click launches, and its end.

One interface for all tests, in their order: the last one kills it.
"""

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

import psutil
import pytest
from dagster import DagsterRunStatus
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from prunescope.assets.definitions import defs
from prunescope.assets.instance.instance import STUDY_TAG, WAREHOUSE_TAG, open_instance
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

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
LINUX = pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found as on Linux")


@dataclass
class Opened:
    """A running interface over a warehouse in which the parameter of one recipe has changed."""

    interface: Interface
    process: subprocess.Popen[bytes]
    study: StudyFile
    warehouse: Path
    port: int

    def computation(self) -> psutil.Process:
        """Return the process of the only run."""
        (process,) = computing(psutil.Process(self.process.pid))
        return process

    def is_computing(self) -> bool:
        return bool(computing(psutil.Process(self.process.pid)))

    def long_run(self, recipe: str) -> tuple[str, list[str]]:
        """Launch a run that takes minutes, as each window scores one token; return its id and its log so far."""
        self.study.write(
            texts=[{"id": "help", "source": "embedded", "context": 128, "stride": 1, "max_tokens": 50_000}]
        )
        run = self.interface.launch(["text_tokens"], f"tiny-a|{recipe}", self.study.path)
        return run, self.interface.wait_for(run, lambda _, lines: "dense model on every text" in "".join(lines))

    def status(self, method: str = "POST", **headers: str) -> int:
        """Return the status of a query with these headers, whose names have _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        content = json.dumps({"query": "{version}"}) if method == "POST" else None
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        try:
            connection.request(method, "/graphql?query={version}", content, sent)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def ui(
    tmp_path_factory: pytest.TempPathFactory, computed_once: Path, tiny_folder: Path, cache: Path
) -> Iterator[Opened]:
    folder, port = tmp_path_factory.mktemp("ui"), free_port()
    study = StudyFile(folder / "tiny.yaml", tiny_folder)
    warehouse = shutil.copytree(computed_once, folder / "warehouse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("DAGSTER_HOME", raising=False)
        changed = {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}
        study.write(recipes=["dense", changed, "wanda-2of4", "attn-drop-1"])
        with open_instance(warehouse) as instance:
            config = {"resources": {"study": {"config": {"study": str(study.path)}}}}
            assert materialized(instance, config, ["recipe"], "magnitude-50").success
        with started(warehouse, port) as (interface, process):
            yield Opened(interface, process, study, warehouse, port)


def until(is_so: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def test_the_interface_shows_the_graph_and_what_a_changed_recipe_makes_stale(ui: Opened) -> None:
    nodes = ui.interface.ask("{ assetNodes { assetKey { path } partitionKeys } }")["assetNodes"]
    shown = {node["assetKey"]["path"][-1]: node["partitionKeys"] for node in nodes}
    assert set(TABLES) - {"imported_scores"} | {"recipe", "report", "hierarchy", "q01_spike_predictors"} < set(shown)
    assert sorted(shown["variants"]) == sorted(f"tiny-a|{recipe}" for recipe in RECIPES)
    # The interface follows dependencies in its own copy of the graph, which would lose a mapping of ours.
    of_magnitude = {f"{table}[tiny-a|magnitude-50]" for table in VARIANT_TABLES}
    assert ui.interface.stale() == of_magnitude | ANSWERS
    query = """query Causes($asset: [String!]!, $partition: String) {
        assetNodeOrError(assetKey: {path: $asset}) {
            ... on AssetNode { staleCauses(partition: $partition) { key { path } partitionKey reason } }
        }
    }"""
    changed = {"key": {"path": ["recipe"]}, "partitionKey": "magnitude-50", "reason": "has a new data version"}
    for asset, partition in (("text_tokens", "tiny-a|magnitude-50"), ("report", None)):
        causes = ui.interface.ask(query, asset=[asset], partition=partition)["assetNodeOrError"]["staleCauses"]
        assert causes == [changed], asset


def test_only_this_machine_and_the_interfaces_own_pages_are_answered(ui: Opened) -> None:
    # test_origin_guard.py has every rule.
    children = psutil.Process(ui.process.pid).children(recursive=True)
    open_at = [each for process in children for each in process.net_connections("inet")]
    assert {each.laddr.ip for each in open_at if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert ui.status(Origin=f"http://127.0.0.1:{ui.port}", Sec_Fetch_Site="same-origin") == 200
    assert ui.status(Host=f"rebound.example.org:{ui.port}") == ui.status(Sec_Fetch_Site="cross-site") == 403
    assert ui.status("GET") == ui.status(Content_Type="text/plain") == 405


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
    WebDriverWait(window, PATIENCE, ignored_exceptions=moving).until(found, f"no button {text!r}")


def next_run(interface: Interface, earlier: str) -> str:
    """Wait until there is a newer run; return its id."""
    until(lambda: interface.newest() != earlier, lambda: interface.run(earlier))
    return interface.newest()


def remember(ui: Opened, recipe: str) -> None:
    """Record the run that computed a variant in the history, as in a warehouse that was not moved.

    A later run of the study had another model.
    """
    tags = {STUDY_TAG: ui.study.name, WAREHOUSE_TAG: str(ui.warehouse), "dagster/partition": f"tiny-a|{recipe}"}
    with open_instance(ui.warehouse) as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        for asked in ({}, {"models": ["another=somewhere"]}):
            config = {"resources": {"study": {"config": {"study": str(ui.study.path)} | asked}}}
            instance.create_run_for_job(job, status=DagsterRunStatus.SUCCESS, tags=tags, run_config=config)


@pytest.mark.chromium
@pytest.mark.exhaustive  # Dagster's own pages; test_study_run.py executes the same jobs
def test_a_click_recomputes_a_variant_and_a_failed_run_is_re_executed_from_its_page(
    ui: Opened, window: webdriver.Chrome
) -> None:
    remember(ui, "wanda-2of4")
    interface, before, earlier = ui.interface, partitions(ui.warehouse), ui.interface.newest()
    away = ui.study.path.rename(ui.study.path.with_suffix(".away"))
    window.get(f"{interface.address}/assets/variants?view=partitions&partition=tiny-a%7Cwanda-2of4")
    press(window, "Materialize…")
    press(window, "Launch 1 run")
    failed = next_run(interface, earlier)
    until(lambda: interface.run(failed)[0] == "FAILURE", lambda: interface.run(failed))
    window.get(f"{interface.address}/runs/{failed}")
    body = (By.TAG_NAME, "body")
    WebDriverWait(window, PATIENCE).until(lambda page: str(ui.study.path) in page.find_element(*body).text)
    assert partitions(ui.warehouse) == before

    away.rename(ui.study.path)
    press(window, "Re-execute all")
    interface.wait_for(next_run(interface, failed), lambda status, _: status == "SUCCESS")
    assert written_since(before, ui.warehouse) == {"variants/model=tiny-a/recipe=wanda-2of4/part.parquet"}


@LINUX
@pytest.mark.exhaustive  # test_engines.py writes the lines of its progress
def test_a_run_reports_progress_and_cancelling_it_stops_its_computation(ui: Opened) -> None:
    before = partitions(ui.warehouse)
    long, told = ui.long_run("dense")
    assert any(line.startswith("tiny-a@dense texts: dense model on every text: ") for line in told)
    assert ui.is_computing()
    ui.interface.terminate(long)
    until(lambda: ui.interface.run(long)[0] == "CANCELED", lambda: ui.interface.run(long))
    until(lambda: not ui.is_computing(), lambda: "the cancelled run goes on")
    assert partitions(ui.warehouse) == before
    assert not diagnose(ui.warehouse)
    # The study measures no speed: nothing is loaded for it.
    following = ui.interface.launch(["speed"], "tiny-a|dense", ui.study.path)
    ui.interface.wait_for(following, lambda status, _: status == "SUCCESS")


@LINUX
@pytest.mark.exhaustive  # Dagster's own code server and daemon do it; test_study_run.py reads their settings
def test_a_run_whose_process_was_killed_is_started_again_and_ends(ui: Opened) -> None:
    killed, _ = ui.long_run("dense")
    ui.study.write(texts=[{"id": "help", "source": "embedded", "context": 16, "max_tokens": 16}])
    ui.computation().kill()
    until(lambda: ui.interface.run(killed)[0] == "FAILURE", lambda: ui.interface.run(killed))
    ui.interface.wait_for(next_run(ui.interface, killed), lambda status, _: status == "SUCCESS")


def below(process: subprocess.Popen[bytes], word: str) -> list[psutil.Process]:
    """Return the living descendants of a process with a word among their arguments."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if word in each.cmdline():
                found.append(each)
    return found


@LINUX
@pytest.mark.exhaustive  # test_signals.py kills a child's parent, test_interrupted.py ends the runs of dead processes
def test_a_run_ends_with_a_killed_server_and_the_servers_with_the_interface(ui: Opened) -> None:
    long, _ = ui.long_run("attn-drop-1")
    process = ui.computation()
    (server_of_code,) = below(ui.process, "grpc")
    server_of_code.kill()
    until(lambda: not process.is_running(), lambda: "the run goes on")
    until(lambda: ui.interface.run(long)[0] in {"CANCELED", "FAILURE"}, lambda: ui.interface.run(long))
    children = below(ui.process, "prunescope.assets.publishing.interface.subprocesses")
    assert {"webserver", "daemon", "code-server"} <= {word for each in children for word in each.cmdline()}
    ui.process.kill()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert not alive
    socket.create_server(("127.0.0.1", ui.port)).close()
