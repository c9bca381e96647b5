"""Recipes that prune nothing: the dense model, and its noise floors under all other recipes. No torch here."""

import re
from typing import ClassVar, Literal

from prunescope.pipelines.recipes.base import BaseRecipe

NoiseKind = Literal["bfloat16", "batch"]


class DenseRecipe(BaseRecipe):
    """The unpruned model, measured against itself."""

    SPELLING = re.compile(r"(?P<method>dense)")
    EXAMPLES: ClassVar = (("dense", "the unpruned model"),)

    method: Literal["dense"] = "dense"


class NoiseRecipe(BaseRecipe):
    """The dense model computed in another way: the noise floor that rounding alone sets under every divergence.

    Attributes:
        kind: `bfloat16`: weights and activations of the body in bfloat16, head and metrics in float32; `batch`: the
            same weights, with every matrix product of the layers summed in the opposite order, whose rounding differs
            as between batch shapes, kernels or machines.
    """

    SPELLING = re.compile(r"(?P<method>noise)-(?P<kind>bfloat16|batch)")
    EXAMPLES: ClassVar = (
        ("noise-bfloat16", "the dense model in bfloat16: a floor, no pruning"),
        ("noise-batch", "the dense model with its sums in another order: a floor, no pruning"),
    )

    method: Literal["noise"] = "noise"
    kind: NoiseKind
