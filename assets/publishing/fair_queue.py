"""Queue for a few places: the next free one goes to the client that has the fewest."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class QueueFullError(Exception):
    """Too many wait already; the message says who should wait."""


class FairQueue:
    """Places that clients take in turns; used by one event loop."""

    def __init__(self, places: int, waiting: int, waiting_of_one: int) -> None:
        """Set the limits.

        Args:
            places: number that may be taken at once.
            waiting: number that may wait.
            waiting_of_one: number of one client that may wait.
        """
        self._free, self._waiting, self._waiting_of_one = places, waiting, waiting_of_one
        self._taken: Counter[str] = Counter()
        self._queue: list[tuple[str, anyio.Event]] = []

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Wait for a place, hold it for the block, and leave the queue when cancelled.

        Raises:
            QueueFullError: too many wait already.
        """
        if self._free:
            self._free -= 1
            self._taken[client] += 1
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on(client)

    async def _wait(self, client: str) -> None:
        if sum(other == client for other, _ in self._queue) >= self._waiting_of_one:
            raise QueueFullError("your queries are waiting already; wait for them, or stop one")
        if len(self._queue) >= self._waiting:
            raise QueueFullError("too many queries are waiting; try again later")
        entry = client, anyio.Event()
        self._queue.append(entry)
        try:
            await entry[1].wait()
        except BaseException:
            if entry in self._queue:
                self._queue.remove(entry)
            else:  # it was given a place at the same moment
                self._pass_on(client)
            raise

    def _pass_on(self, client: str) -> None:
        """Give a place of this client to the next in the queue, who has it from now on."""
        self._taken[client] -= 1
        if not self._queue:
            self._free += 1
            return
        index = min(range(len(self._queue)), key=lambda position: (self._taken[self._queue[position][0]], position))
        chosen, event = self._queue.pop(index)
        self._taken[chosen] += 1  # before it goes on: another place may become free until then
        event.set()
