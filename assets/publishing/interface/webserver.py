"""Dagster's web server with the origin guard."""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from prunescope.assets.publishing.origin_guard import own_pages_only


def graphql_as_json(app: ASGIApp) -> ASGIApp:
    """Let GraphQL be executed only by a POST of JSON, which no link and no form of a page can send.

    Dagster executes mutations in any address, too: a link from another website would start runs.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/graphql") or _is_safe(scope):
            await app(scope, receive, send)
        else:
            refusal = PlainTextResponse("Refused: send GraphQL by POST, as application/json.", 405)
            await refusal(scope, receive, send)

    return answer


def _is_safe(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    if scope["method"] == "POST":
        return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    # Dagster answers with its page for queries and executes nothing.
    return scope["method"] == "GET" and "text/html" in headers.get("accept", "")


def main() -> None:
    """Run `dagster-webserver` behind the origin guard and with our comparison of what is unsynced."""
    from dagster_webserver.cli import main as serve
    from dagster_webserver.webserver import DagsterWebserver

    from prunescope.assets.publishing.interface import staleness

    staleness.install()

    unguarded = DagsterWebserver.build_middleware

    def guarded(server: DagsterWebserver) -> list[Middleware]:
        return [Middleware(own_pages_only), Middleware(graphql_as_json), *unguarded(server)]

    DagsterWebserver.build_middleware = guarded
    serve()


if __name__ == "__main__":
    main()
