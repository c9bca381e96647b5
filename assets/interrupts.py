"""Whether somebody pressed Ctrl-C, even when Dagster's own signal handlers swallowed it.

Dagster replaces the handlers during a run and turns an interrupt into a failed step, or drops it between steps.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGINT or SIGTERM has arrived since the block began; main thread only.

    The interpreter writes every signal's number to a wake-up pipe, whichever handler is installed.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    seen = bytearray()

    def interrupted() -> bool:
        with suppress(BlockingIOError):
            seen.extend(os.read(reader, 4096))
        return signal.SIGINT in seen or signal.SIGTERM in seen

    try:
        yield interrupted
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
