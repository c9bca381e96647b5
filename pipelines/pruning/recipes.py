"""Recipes: the ways to prune, their parameters and their names. No torch here, so that planning is fast.

To add one: a class with its parameters below, its form in `FORMS`, its mask in `masks.py` or its drop in `apply.py`.
"""

import hashlib
import json
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from pipelines.errors import InputError

NAME = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
Statistic = Literal["activation_stats", "block_influence"]
NoiseKind = Literal["bfloat16", "batch"]


class _Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: NAME
    method: str

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Statistics of the dense model that the recipe reads."""
        return ()

    @property
    def parameters_json(self) -> str:
        """All parameters, without the name that somebody gave them, as canonical JSON."""
        return json.dumps(self.model_dump(exclude={"name"}), sort_keys=True)

    @property
    def hash(self) -> str:
        """SHA-256 of the parameters: two names for the same recipe share it."""
        return hashlib.sha256(self.parameters_json.encode()).hexdigest()


class Dense(_Recipe):
    """The unpruned model, measured against itself."""

    method: Literal["dense"] = "dense"


class _Masked(_Recipe):
    """A recipe that sets weights of the layers' linear modules to zero.

    Either `sparsity` (share of the weights set to zero) or `keep` of every `block` consecutive inputs (N:M).
    """

    sparsity: float | None = Field(default=None, gt=0, lt=1)
    keep: int | None = Field(default=None, ge=1)
    block: int | None = Field(default=None, ge=2, le=64)

    @model_validator(mode="after")
    def _one_pattern(self) -> Self:
        if (self.sparsity is None) == (self.keep is None) or (self.keep is None) != (self.block is None):
            raise ValueError("give either `sparsity`, or `keep` and `block` (N:M)")
        if self.keep is not None and self.block is not None and self.keep >= self.block:
            raise ValueError("`keep` must be below `block`: nothing would be pruned")
        return self


class Magnitude(_Masked):
    """Drops the smallest weights by absolute value (Han et al., 1506.02626).

    `group` says among which weights the share is taken: the whole matrix, as usual, or each output row.
    """

    method: Literal["magnitude"] = "magnitude"
    group: Literal["matrix", "output"] = "matrix"


class Wanda(_Masked):
    """Drops the smallest |W_ij|·‖X_j‖ in each output row (Sun et al., 2306.11695 §3).

    ‖X_j‖ comes from the dense model's activations: predecessors are not pruned first.
    """

    method: Literal["wanda"] = "wanda"

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Input norms of every linear module."""
        return ("activation_stats",)


class Drop(_Recipe):
    """Removes the `count` sublayers or blocks with the least cosine influence, in one shot.

    Attention and MLP as in LLM-Drop (2406.15786), blocks as in ShortGPT (2403.03853).
    """

    method: Literal["attn-drop", "mlp-drop", "block-drop"]
    count: int = Field(ge=1)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """The order in which to drop."""
        return ("block_influence",)

    @property
    def unit(self) -> str:
        """What is dropped: attn, mlp or block."""
        return self.method.removesuffix("-drop")


class Noise(_Recipe):
    """The dense model computed in another way: the floor that rounding alone sets under every divergence.

    `bfloat16`: weights and activations of the body in bfloat16, head and metrics in float32.
    `batch`: the same weights, with every matrix product of the layers at another batch shape.
    """

    method: Literal["noise"] = "noise"
    kind: NoiseKind


Recipe = Dense | Magnitude | Wanda | Drop | Noise
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="method")])

FORMS: tuple[tuple[str, str], ...] = (
    ("dense", "the unpruned model"),
    ("magnitude-50", "50 % smallest weights of each matrix"),
    ("magnitude-2of4", "the 2 largest of every 4 weights are kept"),
    ("wanda-50", "50 % smallest |W|·‖X‖ of each output row"),
    ("wanda-2of4", "the 2 largest |W|·‖X‖ of every 4 are kept"),
    ("attn-drop-4", "the 4 attention sublayers with least influence"),
    ("mlp-drop-4", "the 4 MLP sublayers with least influence"),
    ("block-drop-4", "the 4 whole blocks with least influence"),
    ("noise-bfloat16", "the dense model in bfloat16: a floor, no pruning"),
    ("noise-batch", "the dense model at another batch shape: a floor, no pruning"),
)

_MASKED = re.compile(r"(magnitude|wanda)-(?:(\d{1,2}(?:\.\d+)?)|(\d+)of(\d+))")
_DROP = re.compile(r"((?:attn|mlp|block)-drop)-(\d+)")
_NOISE = re.compile(r"noise-(bfloat16|batch)")


def parse_recipe(name: str) -> Recipe:
    """The recipe that a name spells, such as `wanda-50`, `wanda-2of4` or `attn-drop-4`.

    Raises:
        InputError: the name has none of the known forms, or its numbers make no sense.
    """
    fields: dict[str, object] | None = None
    if name == "dense":
        fields = {"method": "dense"}
    elif match := _MASKED.fullmatch(name):
        method, percent, keep, block = match.groups()
        fields = {"method": method}
        fields |= {"sparsity": float(percent) / 100} if percent else {"keep": int(keep), "block": int(block)}
    elif match := _DROP.fullmatch(name):
        fields = {"method": match[1], "count": int(match[2])}
    elif match := _NOISE.fullmatch(name):
        fields = {"method": "noise", "kind": match[1]}
    if fields is None:
        known = ", ".join(form for form, _ in FORMS)
        raise InputError(f"unknown recipe {name!r}; known forms: {known}")
    try:
        return _ADAPTER.validate_python({"name": name, **fields})
    except ValidationError as error:
        raise InputError(f"recipe {name!r}: {error.errors()[0]['msg']}") from error
