"""The connection to a Ray cluster as a dagster-ray resource: local, same network, or remote by one address.

Imported only where Ray is used, since it needs the extra `ray`.
"""

import logging
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from dagster_ray import RayResource
from pydantic import Field

from prunescope.pipelines.core.errors import ComputationError, InputError

_AUTHENTICATION_LOGGER = "ray._private.authentication.authentication_token_setup"
_CONNECT_SECONDS = 5.0
# A ray:// server forks a process for each client while its own threads run, and some of these processes fail to start
# (https://github.com/ray-project/ray/issues/63202).
_ATTEMPTS = 3


class Connection(RayResource):
    """A cluster that exists already, or one on this machine that ends with the connection."""

    address: str = Field(description="`local`, `auto`, `HOST:PORT` or `ray://HOST:10001`.")
    object_store_bytes: int = Field(description="Size of Ray's object store where a local cluster is started.")

    @property
    def host(self) -> str:
        """Return the address; dagster-ray requires a host."""
        return self.address

    @property
    def name(self) -> str:
        """Return the name in dagster-ray's messages."""
        return f"Ray at {self.address}"

    @property
    def ray_address(self) -> str:
        """Return the address for `ray.init`."""
        return self.address

    @property
    def created(self) -> bool:
        """Return true: the cluster exists, or starts with the connection."""
        return True

    @property
    def ready(self) -> bool:
        """Return true, as `created`."""
        return True

    def connect(self, context: Any) -> Any:  # noqa: ANN401, ARG002 - dagster-ray's signature
        """Connect, without dagster-ray's preparations for Ray Data, which is not used here.

        Raises:
            InputError: no cluster answers at the address.
        """
        import ray

        _require_listener(self.address)
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self.address == "local":
            options |= {"include_dashboard": False, "object_store_memory": self.object_store_bytes}
            logging.getLogger(_AUTHENTICATION_LOGGER).addFilter(_is_not_token_notice)
        try:
            for left in reversed(range(_ATTEMPTS)):
                try:
                    self._context = ray.init(self.address, **options)
                    break
                except ConnectionAbortedError:
                    if not left:
                        raise
        except Exception as error:  # Ray raises plain exceptions where its processes do not start
            reason = str(error).strip().partition("\n")[0]
            if self.address == "local":
                raise ComputationError(f"Ray did not start on this machine ({reason})") from error
            raise _no_cluster(self.address, reason) from error
        return self._context


def _is_not_token_notice(record: logging.LogRecord) -> bool:
    """Filter out Ray's notice that a cluster uses token authentication and how to turn it off."""
    return not record.getMessage().startswith("Token authentication is enabled")


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
