"""The origin guard of our web servers: they answer their own pages and local programs, but no other website.

Dagster has no login and executes any request, even one for the address of a picture. Without the guard, any page that
is open in the same browser could start runs.
"""

import re

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from prunescope.assets import settings

# Any other host name that resolves to this machine may be another website's, in a DNS rebinding attack.
_HOSTS = {"127.0.0.1", "localhost"}
_REFUSAL = "Refused: this interface answers its own pages only, on 127.0.0.1 or under a name in PRUNESCOPE_HOSTS."
_PORT = re.compile(r":\d+\Z")


class OwnPagesOnly:
    """Middleware that refuses requests of other websites' pages, recognized by headers that only browsers set."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app, self._hosts = app, _HOSTS | settings.hosts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] not in {"http", "websocket"} or self._is_own(Headers(scope=scope), scope.get("method", "")):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refused = PlainTextResponse(_REFUSAL, 403)
            await refused(scope, receive, send)

    def _is_own(self, headers: Headers, method: str) -> bool:
        host = headers.get("host", "")
        # A proxy in front may use HTTPS.
        own = {f"http://{host}", f"https://{host}"}
        if _PORT.sub("", host) not in self._hosts or headers.get("origin", f"http://{host}") not in own:
            return False
        if headers.get("sec-fetch-site", "none") in {"none", "same-origin"}:
            return True
        # A link to this server opens a page and changes nothing; in a frame a user could be made to click unknowingly.
        return method == "GET" and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == (
            "navigate",
            "document",
        )
