"""HTTP/1.1 with limits of size and time for what a client sends and reads."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEADER_BYTES = 64 << 10
# From the opening of a connection, or the end of a response, until the next request has arrived whole.
_REQUEST_SECONDS = 10
# Without progress while a client reads a response.
_READ_SECONDS = 20
_CHECK_SECONDS = 1


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's connection that closes when a client is slower or sends longer headers than it needs."""

    _deadline: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _is_in_body = False
    _unread, _read_at = 0, 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        self._deadline = self.loop.time() + _REQUEST_SECONDS
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse headers that are too long, which the parser would collect without a limit."""
        if not self._is_in_body:
            self._header_bytes += len(data)
        super().data_received(data)
        if not self._is_in_body and self._header_bytes > _HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_headers_complete(self) -> None:
        """Note that the headers have ended."""
        self._is_in_body, self._header_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for as long as the response takes: queries have their own limit."""
        self._is_in_body, self._deadline = False, None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the time for the next request; close where the body of this one was not read."""
        is_whole = not self._is_in_body
        self._deadline = self.loop.time() + _REQUEST_SECONDS
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:
            self._deadline = None  # the next request was whole already
        if not is_whole and not self.transport.is_closing():
            self.transport.close()

    def _watch(self) -> None:
        """Close a connection whose request is late, or whose client has read nothing for a while."""
        now, unread = self.loop.time(), self.transport.get_write_buffer_size()
        if not unread or unread != self._unread:
            self._unread, self._read_at = unread, now
        is_late = self._deadline is not None and now > self._deadline and not unread
        if is_late or now > self._read_at + _READ_SECONDS:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(_CHECK_SECONDS, self._watch)
