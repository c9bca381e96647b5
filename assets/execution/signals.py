"""Whether somebody pressed Ctrl-C, even when Dagster swallowed it, and what follows when a parent process is gone.

Dagster replaces the handlers during a run and turns an interrupt into a failed step, or drops it between steps.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess


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


# How often a process looks whether its parent is still there, and how long it may take to end in order.
_LOOKED_EVERY, _IN_ORDER_SECONDS = 1.0, 20.0


def end_with_parent() -> None:
    """Interrupts this process, as Ctrl-C does, as soon as the one that has started it is gone, however it ended.

    That may have been before this was called: multiprocessing keeps a pipe to who it was, also where a fork server
    stands in between.
    """
    followed = os.getppid(), multiprocessing.parent_process()
    threading.Thread(target=_follow, args=followed, daemon=True).start()


def _follow(parent: int, starter: BaseProcess | None) -> None:
    while os.getppid() == parent and (starter is None or starter.is_alive()):
        time.sleep(_LOOKED_EVERY)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_IN_ORDER_SECONDS)
    os._exit(1)
