"""The connection to a Ray cluster as dagster-ray's resource: one address for a local, a near and a far cluster.

Imported only where Ray is asked for, since it needs the extra `ray`.
"""

from typing import Any

from dagster_ray import RayResource
from pydantic import Field

from pipelines.errors import ComputationError, InputError


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

    def on_connect(self, context: Any) -> None:  # noqa: ANN401 - dagster-ray's signature
        """Says nothing: whoever asked for it hears of what goes wrong only."""

    def connect(self, context: Any) -> Any:  # noqa: ANN401, ARG002 - dagster-ray's signature
        """Connects without what dagster-ray prepares for Ray Data, which nobody uses here.

        Raises:
            InputError: nothing answers at the address.
        """
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self.address == "local":
            options |= {"include_dashboard": False, "object_store_memory": self.object_store_bytes}
        try:
            self._context = ray.init(self.address, **options)
        except Exception as error:  # Ray raises plain ones where its processes do not come up
            reason = str(error).strip().partition("\n")[0]
            if self.address == "local":
                raise ComputationError(f"Ray did not start on this machine ({reason})") from error
            raise InputError(
                f"--ray {self.address}: no Ray cluster answers there ({reason}); give `local`, `auto` on one of its "
                "machines, HOST:6379, or ray://HOST:10001 from elsewhere"
            ) from error
        return self._context
