"""Base classes of recipes: name, method, canonical parameters, and the spelling of names. No torch here."""

import hashlib
import json
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from prunescope.pipelines.core.frozen_model import NAME, FrozenModel
from prunescope.pipelines.recipes.calibration import CalibrationSpec

Statistic = Literal["activation_stats", "block_influence"]
# Statistics of a matrix's inputs x that a method uses: none, E[x] and E[x²] per channel, or also E[x xᵀ].
Reads = Literal["nothing", "moments", "gram"]


class BaseRecipe(FrozenModel):
    """One way to change a model, with its parameters.

    Attributes:
        name: name in tables and files, freely chosen; unique in a study.
        method: the kind of recipe.
        calibration: the recipe's own settings, such as `{seed: 1}`, if it reads activations; missing keys are taken
            from the study.
    """

    # The pattern of names that spell this recipe, and examples with their meanings.
    SPELLING: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = ()
    # The meaning of a recipe that cannot be spelled by a name.
    MAPPING_MEANING: ClassVar[str] = ""

    name: NAME
    method: str
    # Excluded from hashes if it is None, because the study's calibration is not a parameter of the recipe.
    calibration: CalibrationSpec | None = Field(
        default=None, exclude_if=lambda own: own is None, examples=[{"seed": 1}]
    )

    @model_validator(mode="after")
    def _uses_calibration(self) -> Self:
        if self.calibration is not None and not self.is_calibrated:
            raise ValueError(f"`calibration`: {self.name} reads no activations; leave it out")
        return self

    @classmethod
    def spelled(cls, match: re.Match[str]) -> dict[str, object]:
        """Return the fields that a name spells; by default the named groups of the pattern, `X_percent` as share X."""
        return {
            key.removesuffix("_percent"): float(value) / 100 if key.endswith("_percent") else value
            for key, value in match.groupdict().items()
            if value is not None
        }

    @property
    def members(self) -> tuple["BaseRecipe", ...]:
        """Return the recipes that it consists of, if it is made of others."""
        return ()

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Return the names of the dense model's statistics tables that the recipe or one of its members reads."""
        return tuple(dict.fromkeys(need for member in self.members for need in member.needs))

    @property
    def is_calibrated(self) -> bool:
        """Return whether the recipe depends on the calibration tokens."""
        return bool(self.needs) or any(member.is_calibrated for member in self.members)

    @property
    def parameters_json(self) -> str:
        """Return all parameters except the names, as canonical JSON."""
        return json.dumps(_without_names(self.model_dump(mode="json")), sort_keys=True)

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the parameters, equal for recipes that differ only in name."""
        return hashlib.sha256(self.parameters_json.encode()).hexdigest()


class MatrixRecipe(BaseRecipe):
    """A recipe that changes the layers' weight matrices one by one, from the first layer to the last.

    Attributes:
        modules: shell patterns (`*.mlp.*`, `*q_proj`) for the names of the matrices to change, or `attn` and `mlp`; an
            empty list means every matrix of every layer. Head and embeddings are never changed.
        predecessors: state of the earlier layers while a layer's inputs are measured: `pruned`, as in the papers, or
            `dense`. Recipes that read no inputs ignore it.
        unreached: treatment of a matrix that no calibration token reached, such as an expert's: `refuse` it, or leave
            it `dense` and count it among the variant's facts (`matrices_unreached`).
    """

    # Statistics of every matrix's inputs that the recipe reads.
    reads: ClassVar[Reads] = "nothing"
    # Whether it computes from the dense weights, and would undo an earlier quantization.
    starts_dense: ClassVar[bool] = False

    modules: tuple[str, ...] = Field(default=(), examples=[["mlp"]])
    predecessors: Literal["pruned", "dense"] = "pruned"
    unreached: Literal["refuse", "dense"] = "refuse"

    @property
    def reads_table(self) -> bool:
        """Return whether the recipe takes moments from the dense model's table instead of a pass over the tokens."""
        return self.reads == "moments" and self.predecessors == "dense"

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Return the table that replaces a pass over the tokens."""
        return ("activation_stats",) if self.reads_table else ()

    def treatment(self, label: str, matrix: str) -> "MatrixRecipe":  # noqa: ARG002 (that of a mixed recipe depends on it)
        """Return the recipe itself, which changes every matrix of every sublayer."""
        return self

    def treatments_of(self, label: str) -> tuple["MatrixRecipe", ...]:  # noqa: ARG002 (as above)
        """Return the recipe itself, which changes the matrices of every sublayer."""
        return (self,)

    @property
    def is_calibrated(self) -> bool:
        """Return whether the recipe depends on the calibration tokens."""
        return self.reads != "nothing" or super().is_calibrated


class MaskingRecipe(MatrixRecipe):
    """A recipe that sets weights to zero.

    The pattern is either `sparsity`, or `keep` and `block` (N:M), or one of `ratios` per layer.

    Attributes:
        sparsity: share of the weights to set to zero, above 0 and below 1.
        keep: number of kept weights among every `block` consecutive inputs.
        block: see `keep`.
        ratios: distribution of the sparsity over the layers: `uniform`; `owl`, by each layer's outliers (Yin et al.,
            2310.05175); or one sparsity per layer, from the first.
        owl_m: a weight counts as an outlier if its score exceeds its layer's mean score by this factor.
        owl_lambda: largest distance of a layer's sparsity from `sparsity`; one layer reaches it.
    """

    sparsity: float | None = Field(default=None, gt=0, lt=1, examples=[0.5])
    keep: int | None = Field(default=None, ge=1, examples=[2])
    block: int | None = Field(default=None, ge=2, le=64, examples=[4])
    ratios: Literal["uniform", "owl"] | tuple[Annotated[float, Field(ge=0, lt=1)], ...] = "uniform"
    owl_m: float = Field(default=5.0, gt=0)
    owl_lambda: float = Field(default=0.08, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_pattern(self) -> Self:
        return self.require_pattern()

    def require_pattern(self) -> Self:
        """Return the recipe itself; ValueError if its pattern has none of the three forms."""
        if isinstance(self.ratios, tuple):
            if any(given is not None for given in (self.keep, self.block, self.sparsity)):
                raise ValueError("`ratios` gives one sparsity per layer; leave `sparsity`, `keep` and `block` out")
        elif (self.sparsity is None) == (self.keep is None) or (self.keep is None) != (self.block is None):
            raise ValueError("give either `sparsity`, or `keep` and `block` (N:M)")
        if self.keep is not None and self.block is not None and self.keep >= self.block:
            raise ValueError("`keep` must be below `block`: nothing would be pruned")
        if self.keep is not None and self.ratios != "uniform":
            raise ValueError("an N:M pattern has the same share in every layer; use `sparsity` with `ratios`")
        if self.ratios == "owl" and self.sparsity and self.owl_lambda >= min(self.sparsity, 1 - self.sparsity):
            raise ValueError("`owl_lambda` must be below `sparsity` and 1 − `sparsity`: a layer would lose all or none")
        return self

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Return the table of input norms as well if OWL's outliers determine the ratios."""
        return ("activation_stats",) if self.ratios == "owl" else super().needs


def spelling(method: str, *, also_alone: bool = False) -> re.Pattern[str]:
    """Return the pattern of names: `method-50`, `method-50-owl`, `method-2of4`, and `method` if `also_alone`."""
    share = r"(?P<sparsity_percent>[1-9]\d?(?:\.\d+)?)(?:-(?P<ratios>owl))?"
    pattern = rf"-(?:{share}|(?P<keep>\d+)of(?P<block>\d+))"
    return re.compile(rf"(?P<method>{method})(?:{pattern}){'?' if also_alone else ''}")


def _without_names(fields: object) -> object:
    if isinstance(fields, dict):
        return {key: _without_names(value) for key, value in fields.items() if key != "name"}
    return [_without_names(value) for value in fields] if isinstance(fields, list) else fields
