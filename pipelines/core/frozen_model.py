"""The base class of a study's parts, and the types of names and sources that studies and recipes share.

No torch here.
"""

import hashlib
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prunescope.pipelines.core.errors import masked
from prunescope.pipelines.core.regular_files import path_problem

NAME = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]


def _checked(source: str) -> str:
    if masked(source) != source:
        raise ValueError(
            "holds credentials or a signed address; copy its target to this machine, for secrets come from the "
            "environment only (HF_TOKEN, AWS_*)"
        )
    if (problem := path_problem(source)) is not None:
        raise ValueError(problem)
    return source


# A path or an address. It is stored as provenance and shown in the UI.
SOURCE = Annotated[str, Field(min_length=1), AfterValidator(_checked)]


# Largest counts in studies: beyond any use, and small enough that a plan of them is made at once.
MAX_TOKENS = 2**24  # of a sequence; the longest published context has 10 million
MAX_NEW_TOKENS = 100_000
MAX_TOTAL_TOKENS = 2**28  # 2 GiB of token ids in memory
MAX_RECORDS = 10**9
MAX_STEPS = 10_000


class FrozenModel(BaseModel):
    """A mapping of a study's YAML: frozen, without unknown keys, hashed by its fields."""

    # pydantic's errors are logged, so they must not quote inputs; our own messages quote them with secrets masked.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    @property
    def hash(self) -> str:
        """Return the SHA-256 of all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
