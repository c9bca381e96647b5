"""The connection to a Ray cluster as dagster-ray's resource: one address for a local, a near and a far cluster.

Imported only where Ray is asked for, since it needs the extra `ray`.
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
# For whoever listens at an address to take a connection.
_LISTENER_SECONDS = 5.0
# A server of ray:// begins a process for each client, and some of these beginnings fail: it forks while its
# own threads talk (https://github.com/ray-project/ray/issues/63202).
_TRIES = 3


class Connection(RayResource):
    """A cluster that others keep, or one on this machine that lives as long as the connection."""

    address: str = Field(description="`local`, `auto`, `HOST:PORT` or `ray://HOST:10001`.")
    object_store_bytes: int = Field(description="Size of Ray's object store where a local cluster is started.")

    @property
    def host(self) -> str:
        """The address; there is no more to know of it."""
        return self.address

    @property
    def name(self) -> str:
        """How dagster-ray's messages call it."""
        return f"Ray at {self.address}"

    @property
    def ray_address(self) -> str:
        """What Ray is given."""
        return self.address

    @property
    def created(self) -> bool:
        """It is there, or begins with the connection."""
        return True

    @property
    def ready(self) -> bool:
        """As `created`."""
        return True

    def connect(self, context: Any) -> Any:  # noqa: ANN401, ARG002 - dagster-ray's signature
        """Connects without what dagster-ray prepares for Ray Data, which nobody uses here.

        Raises:
            InputError: nothing answers at the address.
        """
        import ray

        _require_listener(self.address)
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self.address == "local":
            options |= {"include_dashboard": False, "object_store_memory": self.object_store_bytes}
            logging.getLogger(_AUTHENTICATION_LOGGER).addFilter(_is_of_interest)
        try:
            for left in reversed(range(_TRIES)):
                try:
                    self._context = ray.init(self.address, **options)
                    break
                except ConnectionAbortedError:
                    if not left:
                        raise
        except Exception as error:  # Ray raises plain ones where its processes do not come up
            reason = str(error).strip().partition("\n")[0]
            if self.address == "local":
                raise ComputationError(f"Ray did not start on this machine ({reason})") from error
            raise _no_cluster(self.address, reason) from error
        return self._context


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Whether it is not Ray's word that a cluster has a token, as it should, and how to go without."""
    return not record.getMessage().startswith("Token authentication is enabled")


def _require_listener(address: str) -> None:
    """Asks by TCP first: Ray itself waits for minutes, with warnings, where nobody listens.

    Raises:
        InputError: nobody listens at an address of a host and a port.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address  # as Ray does
    if address in {"auto", "local"}:
        return
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        host, port = place.hostname, place.port
        if place.scheme not in {"", "ray"}:
            return
        if not host or not port:
            raise _no_cluster(address, "no port is given")
        socket.create_connection((host, port), timeout=_LISTENER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> InputError:
    return InputError(
        f"--ray {address}: no Ray cluster answers there ({reason}); start one with `ray start --head` and give "
        "HOST:6379, `auto` on one of its machines, or ray://HOST:10001 from elsewhere; `local` starts one here"
    )
