"""A Ray cluster, local, in the same network or remote, and the connection to it; Ray is imported to connect."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from prunescope.pipelines.core.errors import ComputationError, InputError

_CONNECT_SECONDS = 5.0
# A ray:// server forks a process for each client while its own threads run, and some of these processes fail to start
# (https://github.com/ray-project/ray/issues/63202).
_ATTEMPTS = 3
# Size in bytes of the object store of a local cluster: only plans and results pass through it, and Ray's minimum is
# 75 MiB.
_OBJECT_STORE = 80 << 20


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to the cluster for the block.

    `local` starts one on this machine, which ends with the block; `auto` is the one that this machine belongs to;
    `HOST:PORT` is the head of such a cluster, `ray://HOST:10001` of another one.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
        ComputationError: Ray does not start on this machine.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError(f"a Ray cluster needs {error.name}; pip install 'prunescope[ray]'") from error
    # No usage reports from a cluster that starts here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _require_listener(address)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for left in reversed(range(_ATTEMPTS)):
            try:
                connection = ray.init(address, **options)
                break
            except ConnectionAbortedError:
                if not left:
                    raise
    except Exception as error:  # Ray raises plain exceptions if its processes do not start
        reason = str(error).strip().partition("\n")[0]
        if address == "local":
            raise ComputationError(f"Ray did not start on this machine ({reason})") from error
        raise _no_cluster(address, reason) from error
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray has replaced them
                signal.signal(number, handler)
        yield
    finally:
        connection.disconnect()


def _require_listener(address: str) -> None:
    """Check by TCP first, because Ray itself waits for minutes at an address without a listener.

    Raises:
        InputError: there is no listener at the host and port of the address.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address  # as Ray does
    if address in {"auto", "local"}:
        return
    try:
        url = urlsplit(address if "://" in address else f"//{address}")
        host, port = url.hostname, url.port
        if url.scheme not in {"", "ray"}:
            return
        if not host or not port:
            raise _no_cluster(address, "no port is given")
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> InputError:
    return InputError(
        f"--ray {address}: no Ray cluster answers there ({reason}); start one with `ray start --head` and give "
        "HOST:6379, `auto` on one of its machines, or ray://HOST:10001 from elsewhere; `local` starts one here"
    )
