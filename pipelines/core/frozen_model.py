"""What every part of a study is: frozen, without unknown keys, with a hash of its fields. No torch here.

Also the types of names and sources, which studies and recipes share.
"""

import hashlib
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prunescope.pipelines.core.errors import masked

NAME = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]


def _without_credentials(address: str) -> str:
    if masked(address) != address:
        raise ValueError(
            "holds credentials or a signed address; put what it names on this machine, for secrets come from the "
            "environment only (HF_TOKEN, AWS_*)"
        )
    return address


# Where something lies. It is kept as provenance and shown in the UI.
SOURCE = Annotated[str, Field(min_length=1), AfterValidator(_without_credentials)]


class FrozenModel(BaseModel):
    """A mapping of a study's YAML."""

    # Errors are logged; what the user gave stands in our own messages, where secrets are left out.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @property
    def hash(self) -> str:
        """SHA-256 over all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
