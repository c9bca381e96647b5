"""What every part of a study is: frozen, without unknown keys, with a hash of its fields. No torch here."""

import hashlib

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A mapping of a study's YAML."""

    # Errors are logged; what the user gave stands in our own messages, where secrets are left out.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @property
    def hash(self) -> str:
        """SHA-256 over all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
