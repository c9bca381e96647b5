"""The recipe for a checkpoint made by another tool. No torch here."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from prunescope.pipelines.core.frozen_model import SOURCE
from prunescope.pipelines.recipes.base import BaseRecipe


class ExternalRecipe(BaseRecipe):
    """A model that any other tool pruned, quantized or fine-tuned, measured like every other variant.

    The changes are found by comparison with the dense model's weights.

    Attributes:
        source: a folder with safetensors, a .gguf file or a hub id, as for a study's models.
        layers: the dense model's layers that it has, from 0, if it has fewer; None finds them by their weights.
        head: whether to `refuse` a checkpoint with its own head, final norm or tied embedding, or to replace them by
            the `dense` model's, which then computes the logits of both.
    """

    MAPPING_MEANING: ClassVar[str] = "a checkpoint made elsewhere"

    method: Literal["external"] = "external"
    source: SOURCE = Field(examples=["./their-model"])
    layers: tuple[int, ...] | None = None
    head: Literal["refuse", "dense"] = "refuse"

    @field_validator("layers")
    @classmethod
    def _in_order(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (not layers or layers[0] < 0 or list(layers) != sorted(set(layers))):
            raise ValueError("`layers` must be increasing numbers from 0")
        return layers
