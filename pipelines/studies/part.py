"""What every part of a study is: frozen, with no key that nobody reads, and with a hash of its own."""

import hashlib

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a study as its YAML file gives it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def hash(self) -> str:
        """SHA-256 over all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
