"""Dagster's web interface, and the guard of any server: it answers its own pages and programs, and no other website.

Dagster carries out whatever is asked of it, even in the address of a picture, and asks nobody who they are. So any page
that is open in the same browser could start runs. Nothing here knows what is computed.
"""

import re
import sys
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from assets import settings
from assets.child import start_ours

# Another name that leads here is another website's, whose pages the browser would take for ours.
_HOSTS = {"127.0.0.1", "localhost"}
_REFUSAL = "Refused: this interface answers its own pages only, on 127.0.0.1 or under a name in PRUNESCOPE_HOSTS."
_PORT = re.compile(r":\d+\Z")


class OwnPagesOnly:
    """Refuses what a page of another website asks for; what tells such a page from ours is set by the browser alone."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        """Takes the application that answers what is not refused, and names of it that no setting gives."""
        self._app, self._hosts = app, _HOSTS | settings.hosts() | {*hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] not in {"http", "websocket"} or self._is_own(Headers(scope=scope), scope.get("method", "")):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refused = PlainTextResponse(_REFUSAL, 403)
            await refused(scope, receive, send)

    def _is_own(self, headers: Headers, method: str) -> bool:
        host = headers.get("host", "")
        # A proxy in front speaks HTTPS.
        own = {f"http://{host}", f"https://{host}"}
        if _PORT.sub("", host) not in self._hosts or headers.get("origin", f"http://{host}") not in own:
            return False
        if headers.get("sec-fetch-site", "none") in {"none", "same-origin"}:
            return True
        # A link that leads here opens a page and does nothing; in a frame it would be clicked unseen.
        return method == "GET" and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == (
            "navigate",
            "document",
        )


def dev() -> None:
    """`dagster dev` with our programs in the place of Dagster's, and the command line's arguments."""
    from dagster._cli import dev as theirs
    from dagster._grpc import server

    start_ours(theirs)
    start_ours(server)
    theirs.dev_command(args=sys.argv[1:], prog_name="dagster dev")


def main() -> None:
    """`dagster-webserver`, guarded, which shows all that is stale."""
    from dagster_webserver.cli import main as serve
    from dagster_webserver.webserver import DagsterWebserver

    from assets import staleness

    staleness.install()

    unguarded = DagsterWebserver.build_middleware

    def guarded(server: Any) -> list[Middleware]:  # noqa: ANN401 - Dagster's own
        return [Middleware(OwnPagesOnly), *unguarded(server)]

    DagsterWebserver.build_middleware = guarded
    serve()


if __name__ == "__main__":
    main()
