"""The guard of our web servers: they answer their own pages and programs, and no other website.

Dagster carries out whatever a request asks, even the address of a picture, and has no login. Without the guard any page
that is open in the same browser could start runs.
"""

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from prunescope.assets import settings

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
