"""Dagster's web server with the origin guard."""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from prunescope.assets.publishing.origin_guard import OwnPagesOnly


class GraphQLAsJson:
    """Middleware that lets GraphQL be executed only by a POST of JSON, which no link and no form of a page can send.

    Dagster executes mutations in any address, too: a link from another website would start runs.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/graphql") or _is_safe(scope):
            await self._app(scope, receive, send)
        else:
            refused = PlainTextResponse("Refused: send GraphQL by POST, as application/json.", 405)
            await refused(scope, receive, send)


def _is_safe(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    if scope["method"] == "POST":
        return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    # Dagster answers with its page for queries and executes nothing.
    return scope["method"] == "GET" and "text/html" in headers.get("accept", "")


def main() -> None:
    """Run `dagster-webserver` behind the origin guard and with our staleness."""
    from dagster_webserver.cli import main as serve
    from dagster_webserver.webserver import DagsterWebserver

    from prunescope.assets.interface import staleness

    staleness.install()

    unguarded = DagsterWebserver.build_middleware

    def guarded(server: DagsterWebserver) -> list[Middleware]:
        return [Middleware(OwnPagesOnly), Middleware(GraphQLAsJson), *unguarded(server)]

    DagsterWebserver.build_middleware = guarded
    serve()


if __name__ == "__main__":
    main()
