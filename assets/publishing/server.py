"""The explorer over the live warehouse, as a web application: pages, their documents, and SQL that only reads.

What the documents say is `prunescope.pipelines.reporting.explorer`'s business; which study they are of is `prunescope.assets.publishing.live_study`'s.
"""

import html
import json
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import duckdb
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prunescope.assets.publishing.live_study import LiveStudies, ShownStudy
from prunescope.assets.publishing.origin_guard import OwnPagesOnly
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.explorer.page import policy, render
from prunescope.warehouse.catalogue.safe_sql import answer
from prunescope.warehouse.core.errors import SqlError, WarehouseError
from prunescope.warehouse.core.formats import plain_rows

# What a person still looks at; `prunescope sql` gives all of it.
ROWS = 1000
# Of an answer in memory, and of a question.
_ANSWER_BYTES = 16 << 20
_SQL_BYTES = 64 << 10
# Each may use as much memory as it is allowed.
_QUERIES_AT_ONCE = 2
_AGAIN = 0.1  # seconds
# Connections at once, and seconds in which those that are being answered may end when the server does.
_CONNECTIONS, _GRACE = 64, 2
# JavaScript's numbers hold whole numbers up to here.
_LARGEST = 2**53 - 1
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# A page's own words cannot keep it out of a frame.
_NO_FRAME = "frame-ancestors 'none'"
_NOTHING = f"default-src 'none'; {_NO_FRAME}"
_LIST = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Prunescope</title>
<main><h1>Studies</h1><ul>{}</ul></main>
</html>
"""


def application(
    studies: ShownStudy,
    *,
    seconds: float,
    gibibytes: float,
    hosts: Collection[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Starlette:
    """The web application.

    Args:
        studies: what it shows. The page of each is `/study/NAME/`; `/` leads there, or lists them where there are
            several.
        seconds: longest time that a query of the SQL box may take.
        gibibytes: most memory that such a query may use.
        hosts: names by which it is reached, beside those of this machine.
        tell: is told a line about each request that failed by no fault of the reader.
    """
    server = _Server(studies, seconds, gibibytes, tell)
    return Starlette(
        routes=[
            Route("/", server.studies),
            Route("/study/{study}/", server.page),
            Route("/study/{study}/data/{document:path}.json", server.data),
            Route("/study/{study}/sql", server.sql, methods=["POST"]),
        ],
        middleware=[Middleware(_Headers), Middleware(OwnPagesOnly, hosts=hosts)],
        exception_handlers={
            HTTPException: _http_error,
            InputError: _refusal,
            WarehouseError: server.failure,
            ComputationError: server.failure,
            Exception: server.failure,
        },
        lifespan=server.lifespan,
    )


def server(app: Starlette, *, is_debugged: bool = False) -> uvicorn.Server:
    """What runs the application on a socket until SIGINT or SIGTERM, which it passes on."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_level="info" if is_debugged else "critical",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE,
        )
    )


class _Query:
    """One query, from before its connection is opened."""

    connection: duckdb.DuckDBPyConnection | None = None

    def interrupt(self) -> None:
        """Interrupts what runs now; what is about to begin takes no notice, so that one has to come back."""
        if self.connection is not None:
            with suppress(duckdb.ConnectionException):  # it has ended and is closed
                self.connection.interrupt()


class _Server:
    """The endpoints. Files and SQL are read in threads of their own; of the event loop nothing waits for them."""

    def __init__(self, studies: ShownStudy, seconds: float, gibibytes: float, tell: Callable[[str], None]) -> None:
        self._studies, self._seconds, self._gibibytes, self._tell = studies, seconds, gibibytes, tell
        self._running: set[_Query] = set()
        self._asked = 0

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Ends queries that still run when the server ends, or its threads would outlive it."""
        yield
        while self._running:
            for query in tuple(self._running):
                query.interrupt()
            await anyio.sleep(_AGAIN)

    async def studies(self, _: Request) -> Response:
        """The list of the studies, or the way to the only one."""
        found = await anyio.to_thread.run_sync(self._studies.now)
        if len(found) == 1:
            return RedirectResponse(f"study/{quote(next(iter(found)), safe='')}/")
        names = "".join(
            f'<li><a href="study/{quote(name, safe="")}/">{html.escape(prose(name))}</a></li>' for name in found
        )
        return HTMLResponse(_LIST.format(names))

    async def page(self, request: Request) -> Response:
        """The page of a study, whose script asks for the documents."""
        live = await self._live(request)
        page = await anyio.to_thread.run_sync(lambda: render({"index": live.index()}, live=True))
        return HTMLResponse(page, headers={"Content-Security-Policy": f"{policy(live=True)}; {_NO_FRAME}"})

    async def data(self, request: Request) -> Response:
        """One document of a study."""
        live, name = await self._live(request), request.path_params["document"]
        found = await anyio.to_thread.run_sync(live.build, name, request.query_params.get("version"))
        return JSONResponse(found)

    async def sql(self, request: Request) -> Response:
        """The rows of one SELECT over what the study's page shows, or as `error` why there are none."""
        live, sql = await self._live(request), _statement(await _body(request))
        if self._asked >= _QUERIES_AT_ONCE:
            raise HTTPException(503, f"{_QUERIES_AT_ONCE} queries are running already; wait for one, or stop it")
        self._asked += 1
        query = _Query()

        async def stop_when_nobody_waits() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            while True:
                query.interrupt()
                await anyio.sleep(_AGAIN)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stop_when_nobody_waits)
                found = await anyio.to_thread.run_sync(self._answer, live, sql, query)
                tasks.cancel_scope.cancel()
        finally:
            self._asked -= 1
        # A refusal is an answer too: of another status browsers complain in their console, as if the page were broken.
        return JSONResponse(found)

    def _answer(self, live: LiveStudies, sql: str, query: _Query) -> dict[str, object]:
        start = time.monotonic()
        self._running.add(query)
        try:
            with live.locked(self._gibibytes) as query.connection:
                rows = answer(query.connection, sql, seconds=self._seconds, rows=ROWS + 1, size=_ANSWER_BYTES)
        # What another task raises beside would come wrapped: the reader is told of a damaged file as of a wrong query.
        except (SqlError, WarehouseError, ComputationError) as error:
            return {"error": prose(str(error))}
        finally:
            self._running.discard(query)
        return {
            "columns": [{"name": prose(field.name), "type": str(field.type)} for field in rows.schema],
            "rows": [[_shown(value) for value in row] for row in plain_rows(rows.slice(0, ROWS))],
            "truncated": rows.num_rows > ROWS,
            "seconds": round(time.monotonic() - start, 3),
        }

    async def _live(self, request: Request) -> LiveStudies:
        name = request.path_params["study"]
        found = self._studies.known()
        if name not in found:
            found = await anyio.to_thread.run_sync(self._studies.now)
        if name not in found:
            raise HTTPException(404, f"there is no study {prose(name, 80)}")
        return found[name]

    async def failure(self, request: Request, error: Exception) -> Response:
        """What the reader can do nothing about, in one line, here and there."""
        known = isinstance(error, (WarehouseError, ComputationError))
        message = str(error) if known else f"{type(error).__name__}: {error} (a bug; --debug shows where)"
        self._tell(f"{label(request.url.path, 120)}: {prose(message)}")
        # Answers to bugs are made outside of what adds the headers.
        return JSONResponse({"error": prose(message)}, 500, headers=_HEADERS | {"Content-Security-Policy": _NOTHING})


class _Headers:
    """Adds to every answer what keeps other pages and caches out of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Content-Security-Policy", _NOTHING)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


async def _http_error(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _refusal(_: Request, error: InputError) -> Response:
    return JSONResponse({"error": prose(str(error))}, 404)


async def _body(request: Request) -> bytes:
    """The JSON of a request; a page of another website could send it without asking as anything but JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send JSON, as Content-Type: application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _SQL_BYTES:
            raise HTTPException(413, f"the SQL is longer than {_SQL_BYTES >> 10} KiB", {"Connection": "close"})
    return bytes(body)


def _statement(body: bytes) -> str:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, 'this is no JSON; send {"sql": "SELECT ..."}') from error
    if not isinstance(asked, dict) or not isinstance(asked.get("sql"), str):
        raise HTTPException(400, 'send {"sql": "SELECT ..."}')
    return str(asked["sql"])


def _shown(value: Any) -> object:  # noqa: ANN401 - what JSON holds
    """A value for the eye: long texts cut, what is invisible in them made visible, no digit lost in JavaScript."""
    shown: object = value
    if isinstance(value, str):
        shown = prose(value)
    elif isinstance(value, list):
        shown = [_shown(item) for item in value]
    elif isinstance(value, dict):
        shown = {prose(key): _shown(item) for key, item in value.items()}
    elif isinstance(value, int) and abs(value) > _LARGEST:
        shown = str(value)
    return shown
