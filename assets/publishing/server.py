"""The explorer over the live warehouse as a web application: pages, their documents, and read-only SQL.

Intended for one local user. For several readers, put a proxy in front; `assets/instance/deploy/Caddyfile` is an example
with limits.
"""

import html
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import quote

import anyio
import anyio.to_thread
import polars as pl
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prunescope.assets.publishing.live_study import LiveStudy, StudyRegistry
from prunescope.assets.publishing.origin_guard import own_pages_only
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.reporting.charts.auto_chart import MAX_MARKS, draw_rows
from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.explorer.page import policy
from prunescope.warehouse.catalogue.sql_process import SqlProcess
from prunescope.warehouse.core.errors import SqlSizeError, SqlTimeError, WarehouseError

# Rows of an answer in the browser; `prunescope sql` returns all.
ROWS = 1000
# Size limits of an answer's JSON, of a query, and of a request's headers.
_ANSWER_BYTES = 4 << 20
_SQL_BYTES = _HEADER_BYTES = 64 << 10
# Media types of answers to keep, and the limit of their size.
_DOWNLOADS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_DOWNLOAD_BYTES = 64 << 20
# Each query may use the whole memory limit.
_MAX_QUERIES = 2
# Seconds that open requests have to end at shutdown.
_SHUTDOWN_SECONDS = 2
_MAX_CONNECTIONS = 200
# The largest integer that JavaScript's numbers represent exactly.
_MAX_INTEGER = 2**53 - 1
# Errors whose message is meant for the reader.
_EXPECTED = (InputError, WarehouseError, ComputationError)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Only as a header: browsers ignore it in a page's own policy.
_NO_FRAME = "frame-ancestors 'none'"
_DENY_ALL = f"default-src 'none'; {_NO_FRAME}"
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
    studies: StudyRegistry,
    *,
    seconds: float,
    gibibytes: float,
    log: Callable[[str], None] = lambda _: None,
) -> ASGIApp:
    """Return the web application, in which each study has its page; `/` redirects to a single one, or lists several.

    `seconds` and `gibibytes` limit the time and memory of a query of the SQL box. `log` receives a line for each
    request that failed for a reason that the reader cannot fix.
    """
    server = _Server(studies, seconds, gibibytes, log)
    app = Starlette(
        routes=[
            Route("/", server.studies),
            Route("/study/{study}/", server.page),
            Route("/study/{study}/data/{document:path}.json", server.data),
            Route("/study/{study}/sql", server.sql, methods=["POST"]),
        ],
        middleware=[Middleware(own_pages_only), Middleware(GZipMiddleware, compresslevel=6)],
        exception_handlers=dict.fromkeys([HTTPException, *_EXPECTED, Exception], server.failure),
        lifespan=server.lifespan,
    )
    return _with_headers(app)  # around all of it, because responses to unexpected errors bypass Starlette's middleware


def server(app: ASGIApp, *, is_debugged: bool = False) -> uvicorn.Server:
    """Return the server that runs the application on a socket until SIGINT or SIGTERM, which it passes on."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",  # httptools collects headers without a limit
            h11_max_incomplete_event_size=_HEADER_BYTES,
            ws="none",
            log_level="info" if is_debugged else "critical",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
    )


class _Server:
    """The endpoints. Threads read files and run SQL, so that the event loop never waits for them."""

    def __init__(self, studies: StudyRegistry, seconds: float, gibibytes: float, log: Callable[[str], None]) -> None:
        self._studies, self._seconds, self._gibibytes, self._log = studies, seconds, gibibytes, log
        self._policy = f"{policy(live=True)}; {_NO_FRAME}"

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Start a process before the next query needs it; close it at shutdown."""
        self._places, self._ahead = anyio.CapacityLimiter(_MAX_QUERIES), SqlProcess()
        try:
            yield
        finally:
            self._ahead.close()

    async def studies(self, _: Request) -> Response:
        """Return the list of studies, or a redirect to the only one."""
        found = await anyio.to_thread.run_sync(self._studies.now)
        if len(found) == 1:
            return RedirectResponse(f"study/{quote(next(iter(found)), safe='')}/")
        names = "".join(
            f'<li><a href="study/{quote(name, safe="")}/">{html.escape(prose(name))}</a></li>' for name in found
        )
        return HTMLResponse(_LIST.format(names))

    async def page(self, request: Request) -> Response:
        """Return the page of a study, whose script requests the documents."""
        live = await self._live(request)
        page = await anyio.to_thread.run_sync(live.page)
        return HTMLResponse(page, headers={"Content-Security-Policy": self._policy})

    async def data(self, request: Request) -> Response:
        """Return one document of a study."""
        live, name = await self._live(request), request.path_params["document"]
        document = await anyio.to_thread.run_sync(live.document, name)
        return Response(document, media_type="application/json")

    async def sql(self, request: Request) -> Response:
        """Return the rows of one SELECT over the study, or the error message in `error`."""
        live, (sql, to) = await self._live(request), await _statement(request)

        async def cancel_when_the_client_leaves() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_when_the_client_leaves)
            response = await self._answer(live, sql, to)
            tasks.cancel_scope.cancel()
            return response
        return Response(status_code=499)  # the client has left

    async def _answer(self, live: LiveStudy, sql: str, to: str) -> Response:
        """Run the query when a place is free, in a process that is killed when the client leaves."""
        async with self._places:
            try:
                setup = await anyio.to_thread.run_sync(live.sql_setup, self._gibibytes)
                process, self._ahead = self._ahead, SqlProcess()
                if not process.is_running:  # it was killed while it waited
                    process.close()
                    process = SqlProcess()
                with process.open(setup):
                    return await anyio.to_thread.run_sync(self._rows, process, sql, to, abandon_on_cancel=True)
            except _EXPECTED as error:
                # Mostly with status 200: browsers log others in the console as if the page were broken.
                code = 408 if isinstance(error, SqlTimeError) else 413 if isinstance(error, SqlSizeError) else 200
                return JSONResponse({"error": prose(str(error))}, code)

    def _rows(self, process: SqlProcess, sql: str, to: str) -> Response:
        start = time.monotonic()
        render = partial(process.render, sql, seconds=self._seconds)
        if to in _DOWNLOADS:
            content, _ = render(to=to, size=_DOWNLOAD_BYTES)
            return Response(content, media_type=_DOWNLOADS[to])
        if to == "chart":
            content, _ = render(to="parquet", rows=MAX_MARKS + 1, size=_ANSWER_BYTES)
            chart = draw_rows(pl.read_parquet(io.BytesIO(content))).to_dict()
            return JSONResponse({"spec": {name: part for name, part in chart.items() if name != "config"}})
        content, count = render(to="plain", rows=ROWS + 1, size=_ANSWER_BYTES)
        answer = json.loads(content)
        return JSONResponse(
            {
                "columns": [_shown(column) for column in answer["columns"]],
                "rows": [[_shown(value) for value in row] for row in answer["rows"][:ROWS]],
                "truncated": count > ROWS,
                "seconds": round(time.monotonic() - start, 3),
            }
        )

    async def _live(self, request: Request) -> LiveStudy:
        name = request.path_params["study"]
        found = self._studies.known
        if name not in found:
            found = await anyio.to_thread.run_sync(self._studies.now)
        if name not in found:
            raise HTTPException(404, f"there is no study {prose(name, 80)}")
        return found[name]

    async def failure(self, request: Request, error: Exception) -> Response:
        """Return an error in one line; log it if the reader cannot fix it."""
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        if isinstance(error, InputError):
            return JSONResponse({"error": prose(str(error))}, 404)
        if isinstance(error, ExceptionGroup):  # of the tasks of a query
            error = error.exceptions[0]
        is_bug = not isinstance(error, _EXPECTED)
        message = f"{type(error).__name__}: {error} (a bug; --debug shows where)" if is_bug else str(error)
        self._log(f"{label(request.url.path, 120)}: {prose(message)}")
        return JSONResponse({"error": prose(message)}, 500)


def _with_headers(app: ASGIApp) -> ASGIApp:
    """Add security headers to every response, and forbid caching."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Content-Security-Policy", _DENY_ALL)
            await send(message)

        await app(scope, receive, with_headers if scope["type"] == "http" else send)

    return answer


async def _statement(request: Request) -> tuple[str, str]:
    """Return the SQL of a request, and in which form it wants the rows: `rows`, one of `_DOWNLOADS`, or `chart`.

    Content types other than JSON are refused: other websites' pages can send them without preflight.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send JSON, as Content-Type: application/json")
    if int(request.headers.get("content-length", 0)) > _SQL_BYTES:
        raise HTTPException(413, f"the SQL is longer than {_SQL_BYTES >> 10} KiB", {"Connection": "close"})
    try:
        fields = await request.json()
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended early") from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, 'not valid JSON; send {"sql": "SELECT ..."}') from error
    if not isinstance(fields, dict) or not isinstance(fields.get("sql"), str):
        raise HTTPException(400, 'send {"sql": "SELECT ..."}')
    to = fields.get("to", "rows")
    if not isinstance(to, str) or to not in {"rows", "chart", *_DOWNLOADS}:
        raise HTTPException(400, f'"to" is rows, chart, {" or ".join(_DOWNLOADS)}')
    return str(fields["sql"]), to


def _shown(value: object) -> object:
    """Convert a value for display: shorten long texts, make invisible characters visible, keep large integers exact."""
    match value:
        case str():
            return prose(value)
        case list():
            return [_shown(item) for item in value]
        case dict():
            return {prose(key): _shown(item) for key, item in value.items()}
        case int() if abs(value) > _MAX_INTEGER:
            return str(value)
    return value
