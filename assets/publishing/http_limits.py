"""HTTP/1.1 with limits of size and time for what a client sends and reads."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEADER_BYTES = 64 << 10
# From the opening of a connection, or the first byte of a later request, to the end of the request's body.
_REQUEST_SECONDS = 10
# From there until the client has read the response; queries have their own, shorter limit.
_RESPONSE_SECONDS = 600


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's connection that closes when a client is slower or sends longer headers than anyone needs."""

    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _is_in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        self._close_after(_REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._close_after(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse headers that are too long, which the parser would collect without a limit."""
        if not self._is_in_body:
            self._header_bytes += len(data)
        super().data_received(data)
        if not self._is_in_body and self._header_bytes > _HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        """Start the time for a request."""
        super().on_message_begin()
        self._close_after(_REQUEST_SECONDS)

    def on_headers_complete(self) -> None:
        """Note that the headers have ended."""
        self._is_in_body, self._header_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Start the time for the response."""
        self._is_in_body = False
        self._close_after(_RESPONSE_SECONDS)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Stop the time: uvicorn closes connections without a further request."""
        self._close_after(None)
        super().on_response_complete()

    def _close_after(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)
