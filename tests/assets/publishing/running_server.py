"""The explorer's server in a thread of the tests' process or as a command, and what asks it."""

import http.client
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prunescope.assets.publishing.live_study import StudyRegistry
from prunescope.assets.publishing.server import application, server
from tests.assets.tiny_study import COMMAND, ROOT

PATIENCE = 60.0
ENDLESS = "select count(*) from range(1000000) a, range(1000000) b"
_JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `prunescope serve` as a command; yield the process and the first line that it prints."""
    command = [*COMMAND, "serve", "--port", "0", "--warehouse", str(root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".src")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process, process.stderr.readline()
    finally:
        process.kill()
        process.communicate()


def begun(port: int, sql: str, patience: float = PATIENCE) -> http.client.HTTPConnection:
    """Send a query to the box of the tiny study, and do not wait for the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    connection.request("POST", "/study/tiny/sql", json.dumps({"sql": sql}), _JSON)
    return connection


class Served:
    """A server in a thread of this process."""

    def __init__(self, root: Path, study: str | None = None, seconds: float = PATIENCE) -> None:
        shown = StudyRegistry(root, study)
        self.root, self.home = root, f"/study/{quote(next(iter(shown.known)), safe='')}/"
        self.told: list[str] = []
        app = application(shown, seconds=seconds, gibibytes=0.5, log=self.told.append)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._server = server(app)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self) -> "Served":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()
        assert not self._thread.is_alive()

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with names in lower case, and body; of the headers that are sent `_` in names means `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def data(self, name: str) -> Any:
        status, _, body = self.ask(f"{self.home}data/{quote(name)}.json")
        assert status == 200, body
        return json.loads(body)

    def post(self, said: bytes | dict[str, object], **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Ask the box, by a body or what it holds as JSON."""
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        return self.ask(f"{self.home}sql", "POST", body, **({"Content_Type": "application/json"} | headers))

    def sql(self, sql: str) -> dict[str, Any]:
        status, _, answer = self.post({"sql": sql})
        assert status in {200, 408, 413}
        return json.loads(answer)

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)


def request(line: str, body: bytes = b"", length: int | None = None, extra: str = "") -> bytes:
    """Return a request as bytes; its body may have another length than it says."""
    head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
