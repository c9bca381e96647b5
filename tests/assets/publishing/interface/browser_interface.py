"""The web interface as a process, and the GraphQL queries of its pages."""

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.assets.tiny_study import ROOT, SERVER

PATIENCE = 240.0
# `pipelineName`: the job that Dagster makes of all assets.
_PLACE = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "prunescope.assets.definitions",
    "pipelineName": "__ASSET_JOB",
}


class Interface:
    """A client of a running interface."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._port = port

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        body = json.dumps({"query": query, "variables": variables})
        try:
            connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
            return json.load(connection.getresponse())["data"]
        finally:
            connection.close()

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert process.poll() is None
            try:
                if self.ask("{ assetNodes { id } }")["assetNodes"]:
                    return
            except ConnectionError:
                time.sleep(0.5)
        raise AssertionError("the interface did not load its assets")

    def launch(self, assets: list[str], partition: str, study: Path) -> str:
        """Launch a run of one partition of some assets; return its id."""
        query = """mutation Launch($parameters: ExecutionParams!) { launchRun(executionParams: $parameters) {
            ... on LaunchRunSuccess { run { runId } }
            ... on PythonError { message }
        } }"""
        parameters = {
            "selector": _PLACE | {"assetSelection": [{"path": [asset]} for asset in assets]},
            "mode": "default",
            "runConfigData": {"resources": {"study": {"config": {"study": str(study)}}}},
            # Without the tags of the two dimensions, as a user writes it by hand.
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        }
        launched = self.ask(query, parameters=parameters)["launchRun"]
        assert "run" in launched, launched
        return launched["run"]["runId"]

    def newest(self) -> str:
        """Return the id of the newest run."""
        found = self.ask("{ runsOrError(limit: 1) { ... on Runs { results { runId } } } }")
        return found["runsOrError"]["results"][0]["runId"]

    def terminate(self, run_id: str) -> None:
        """Cancel a run."""
        query = "mutation Stop($id: String!) { terminateRun(runId: $id) { __typename } }"
        assert self.ask(query, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def run(self, run_id: str) -> tuple[str, list[str]]:
        """Return its status and the lines of its log so far."""
        query = """query Run($id: ID!) {
            runOrError(runId: $id) { ... on Run { status } }
            logsForRun(runId: $id) { ... on EventConnection { events { ... on MessageEvent { message } } } }
        }"""
        found = self.ask(query, id=run_id)
        return found["runOrError"]["status"], [event["message"] for event in found["logsForRun"]["events"]]

    def wait_for(self, run_id: str, is_there: Callable[[str, list[str]], bool]) -> list[str]:
        """Wait until status and log of a run are so, which a failed run never is; return the log."""
        deadline = time.monotonic() + PATIENCE
        while not is_there(*(found := self.run(run_id))):
            assert time.monotonic() < deadline, found
            assert found[0] not in {"FAILURE", "CANCELED"}, found
            time.sleep(0.2)
        return found[1]

    def stale(self) -> set[str]:
        """Return everything that the interface shows as stale: `asset`, or `asset[partition]`."""
        nodes = self.ask("{ assetNodes { assetKey { path } isPartitioned partitionKeys staleStatus } }")["assetNodes"]
        found = {"/".join(node["assetKey"]["path"]) for node in nodes if node["staleStatus"] == "STALE"}
        query = """query Stale($assets: [AssetKeyInput!]) {
            assetNodes(assetKeys: $assets) { assetKey { path } partitionKeys staleStatusByPartition }
        }"""
        partitioned = [node["assetKey"] for node in nodes if node["isPartitioned"]]
        for node in self.ask(query, assets=partitioned)["assetNodes"]:
            told = zip(node["partitionKeys"], node["staleStatusByPartition"], strict=True)
            name = "/".join(node["assetKey"]["path"])
            found |= {f"{name}[{partition}]" for partition, status in told if status == "STALE"}
        return found


def free_port() -> int:
    """Return a port without a server."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def started(warehouse: Path, port: int) -> Iterator[tuple[Interface, subprocess.Popen[bytes]]]:
    """Start `prunescope ui` with this process's environment, wait until it answers, and end it afterwards.

    SIGINT is ignored, as in the background of a shell script; SIGTERM must end it all the same.
    """
    command = shlex.join([*SERVER, "ui", "--port", str(port), "--warehouse", str(warehouse)])
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' INT; exec {command}"],
        env=os.environ | {"PYTHONPATH": str(ROOT / ".src")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        interface = Interface(port)
        interface.wait(process)
        yield interface, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)
