"""Tests of what our servers refuse: requests of other websites' pages, and GraphQL that such a page could send."""

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from prunescope.assets.publishing.interface.webserver import graphql_as_json
from prunescope.assets.publishing.origin_guard import own_pages_only

NAVIGATION = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).accept()
    else:
        await PlainTextResponse("answered")(scope, receive, send)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "127.0.0.1"}, 200),  # port 80, which browsers omit
        ({"host": "localhost:3000", "origin": "http://localhost:3000", "sec-fetch-site": "same-origin"}, 200),
        ({"host": "scope.example.org", "origin": "https://scope.example.org"}, 200),
        ({"host": "[2001:db8::1]:3000", "origin": "http://[2001:db8::1]:3000"}, 200),
        ({"host": "[2001:db8::1]"}, 200),
        ({"host": "scope.example.org", "origin": "https://rebound.example.org"}, 403),
        *(({"host": "localhost", "origin": origin}, 403) for origin in ("null", "https://localhost:3000")),
        *(({"host": host}, 403) for host in ("rebound.example.org", "127.0.0.1.example.org", "[::2]:3000", "")),
        ({"host": "localhost:3000.rebound.example.org"}, 403),
        *(({"host": "localhost", "sec-fetch-site": site}, 403) for site in ("same-site", "cross-site")),
        ({"host": "localhost"} | NAVIGATION, 403),
    ],
    ids=range(16),
)
def test_the_interface_answers_to_its_own_host_names_only(
    headers: dict[str, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNESCOPE_HOSTS", "Scope.example.org, [2001:db8::1]")
    client = TestClient(own_pages_only(answer))
    assert client.post("/graphql", headers=headers).status_code == code
    if code == 403:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/graphql", headers=headers):
            pass


@pytest.mark.parametrize(
    ("changed", "code"),
    [({}, 200), ({"sec-fetch-dest": "iframe"}, 403), ({"sec-fetch-mode": "no-cors"}, 403)],
    ids=["link", "frame", "picture"],
)
def test_a_link_from_another_website_opens_a_page_outside_of_frames(changed: dict[str, str], code: int) -> None:
    client = TestClient(own_pages_only(PlainTextResponse("answered")), base_url="http://localhost")
    assert client.get("/", headers=NAVIGATION | changed).status_code == code


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
                "a; application/json",
            )
        ),
    ],
)
def test_graphql_is_executed_only_as_json_by_post(method: str, path: str, headers: dict[str, str], code: int) -> None:
    client = TestClient(graphql_as_json(PlainTextResponse("answered")))
    assert client.request(method, path, headers={"accept": "*/*"} | headers).status_code == code
