"""The origin guard of our web servers: they answer their own pages and local programs, but no other website.

Dagster has no login and executes any request, even one for the address of a picture. Without the guard, any page that
is open in the same browser could start runs.
"""

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from prunescope.assets.instance import settings

# Any other host name that resolves to this machine may be another website's, in a DNS rebinding attack.
_HOSTS = {"127.0.0.1", "localhost"}
_REFUSAL = "Refused: this interface answers its own pages only, on 127.0.0.1 or under a name in PRUNESCOPE_HOSTS."
_PORT = re.compile(r":\d+\Z")


def own_pages_only(app: ASGIApp) -> ASGIApp:
    """Refuse requests of other websites' pages, recognized by headers that only browsers set."""
    hosts = _HOSTS | settings.hosts()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or _is_own(Headers(scope=scope), scope.get("method", ""), hosts):
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(_REFUSAL, 403)(scope, receive, send)

    return answer


def _is_own(headers: Headers, method: str, hosts: Collection[str]) -> bool:
    host = headers.get("host", "")
    # A proxy in front may use HTTPS.
    own = {f"http://{host}", f"https://{host}"}
    if _PORT.sub("", host) not in hosts or headers.get("origin", f"http://{host}") not in own:
        return False
    if headers.get("sec-fetch-site", "none") in {"none", "same-origin"}:
        return True
    # A link to this server opens a page and changes nothing; in a frame a user could be made to click unknowingly.
    asked = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return method == "GET" and asked == ("navigate", "document")
