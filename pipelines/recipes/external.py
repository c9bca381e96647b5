"""The recipe for a checkpoint that another tool made. No torch here.

How it is read stands in `prunescope.pipelines.pruning.methods.external`.
"""

from typing import ClassVar, Literal

from pydantic import field_validator

from prunescope.pipelines.core.frozen_model import SOURCE
from prunescope.pipelines.recipes.base import BaseRecipe


class ExternalRecipe(BaseRecipe):
    """A model that any other tool pruned, quantized or fine-tuned, measured like every other variant.

    Its source is the tool's own output; no paper. Which weights differ from the dense model's is found by comparison.

    Attributes:
        source: a folder with safetensors, a .gguf file or a hub id, as a study's models have it.
        layers: which of the dense model's layers it has, from 0, where it has fewer; None finds them by their weights.
        head: whether a head, final norm or tied embedding of its own is refused, or replaced by the dense model's,
            through which both sides are read.
    """

    EXAMPLES: ClassVar = ()

    method: Literal["external"] = "external"
    source: SOURCE
    layers: tuple[int, ...] | None = None
    head: Literal["refuse", "dense"] = "refuse"

    @property
    def changes_matrices(self) -> bool:
        """As far as can be known before it is read."""
        return True

    @field_validator("layers")
    @classmethod
    def _in_order(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (not layers or layers[0] < 0 or list(layers) != sorted(set(layers))):
            raise ValueError("`layers` are numbers from 0, each above the one before")
        return layers
