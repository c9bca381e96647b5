"""The base class of a study's parts, and the types of names and sources that studies and recipes share.

No torch here.
"""

import hashlib
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prunescope.pipelines.core.errors import masked

NAME = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]


def _without_credentials(address: str) -> str:
    if masked(address) != address:
        raise ValueError(
            "holds credentials or a signed address; copy its target to this machine, for secrets come from the "
            "environment only (HF_TOKEN, AWS_*)"
        )
    return address


# A path or an address. It is stored as provenance and shown in the UI.
SOURCE = Annotated[str, Field(min_length=1), AfterValidator(_without_credentials)]


class FrozenModel(BaseModel):
    """A mapping of a study's YAML: frozen, without unknown keys, hashed by its fields."""

    # pydantic's errors are logged, so they must not quote inputs; our own messages quote them with secrets masked.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @property
    def hash(self) -> str:
        """Return the SHA-256 of all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
