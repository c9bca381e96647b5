"""Detection of Ctrl-C, even if Dagster handles it, and the end of this process after its parent.

Dagster replaces the signal handlers during a run and turns an interrupt into a failed step, or drops it between steps.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def watch_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM has arrived in the block; main thread only.

    The interpreter writes every signal's number to a wake-up pipe, even if another handler is installed.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    received = bytearray()

    def interrupted() -> bool:
        with suppress(BlockingIOError):
            received.extend(os.read(reader, 4096))
        return signal.SIGINT in received or signal.SIGTERM in received

    try:
        yield interrupted
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


# Seconds between two checks of the parent, and between the interrupt and the forced end.
_CHECK_SECONDS, _EXIT_SECONDS = 1.0, 20.0


def end_with_parent() -> None:
    """Interrupt this process, as Ctrl-C does, as soon as the process that started it has ended.

    The parent may have ended before this call. multiprocessing keeps a pipe to the process that started this one, even
    through a fork server.
    """
    parent, starter = os.getppid(), multiprocessing.parent_process()

    def watch() -> None:
        while os.getppid() == parent and (starter is None or starter.is_alive()):
            time.sleep(_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(_EXIT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
