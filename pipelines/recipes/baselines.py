"""Recipes that prune nothing: the dense model, and the noise floors of all other recipes. No torch here."""

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
    """The dense model computed in another way, which shows the noise floor that rounding sets under every divergence.

    Attributes:
        kind: `bfloat16`: embedding, residual stream and layers in bfloat16, as in a model that transformers loads in
            bfloat16 (bit for bit on SmolLM2-135M; rotary frequencies are float32 in both). Final norm, LM head and
            metrics stay in float32, as for every variant. A model wholly in bfloat16 is further away; its KL is 1.4
            (mean) to 1.8 (median) times as large. `batch`: the same weights, with every matrix product of the layers
            summed in the opposite order, whose rounding differs as between batch shapes, kernels or machines.

    Under scope `local` only one sublayer computes so, on the dense model's normed stream; its contribution is added to
    the stream in float32.
    """

    SPELLING = re.compile(r"(?P<method>noise)-(?P<kind>bfloat16|batch)")
    EXAMPLES: ClassVar = (
        ("noise-bfloat16", "the dense model in bfloat16: a floor, no pruning"),
        ("noise-batch", "the dense model with its sums in another order: a floor, no pruning"),
    )

    method: Literal["noise"] = "noise"
    kind: NoiseKind
