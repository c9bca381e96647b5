"""A server that answers an upload as the Hugging Face hub does."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub
import pytest

TOKEN = "hf_" + "a" * 34


class Hub(ThreadingHTTPServer):
    """The hub's answers to an upload of small files; `files` has what was committed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.refuses_commits = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, content: bytes) -> tuple[int, object]:
        match path.split("?", maxsplit=1)[0]:
            case "/api/whoami-v2":
                return 200, {"name": "me", "type": "user"}
            case "/api/repos/create":
                self.created.append(json.loads(content))
                return 200, {"url": f"{self.address}/me/mine"}
            case "/api/validate-yaml":
                return 200, {"warnings": [], "errors": []}
            case "/api/models/me/mine/preupload/main":
                files = json.loads(content)["files"]
                return 200, {
                    "files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                }
            case "/api/models/me/mine/commit/main" if not self.refuses_commits:
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return 200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.address}/me/mine/commit/0"}
        return 403, {"error": f"no access to {path}"}


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _reply(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        status, body = self.server.answer(self.path, content) if known else (401, {"error": "Invalid token"})
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def do_GET(self) -> None:
        self._reply()

    def do_POST(self) -> None:
        self._reply()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Serve a hub to which TOKEN alone gives access, and make it this process's hub."""
    with pytest.MonkeyPatch.context() as patch, Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()
