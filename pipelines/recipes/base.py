"""What all recipes share: name, method, canonical parameters, the form of their names. No torch here.

What each of them does stands in the modules beside this one.
"""

import hashlib
import json
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prunescope.pipelines.core.frozen_model import NAME
from prunescope.pipelines.recipes.calibration import CalibrationSpec

Statistic = Literal["activation_stats", "block_influence"]
# What a method reads of the inputs x of a matrix: nothing, E[x] and E[x²] per channel, or E[x xᵀ] as well.
Reads = Literal["nothing", "moments", "gram"]


class BaseRecipe(BaseModel):
    """One way to change a model, with its parameters.

    Attributes:
        name: in tables and files; anybody may choose it, but two recipes of a study have two names.
        method: which recipe it is.
        calibration: tokens of its own, such as `{seed: 1}`, for a recipe that reads activations; keys that it leaves
            out are the study's.
    """

    # Errors are logged; what the user gave stands in our own messages, where secrets are left out.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # The names that spell this recipe, as one pattern, and examples of them with what they mean.
    SPELLING: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    EXAMPLES: ClassVar[tuple[tuple[str, str], ...]] = ()

    name: NAME
    method: str
    # Left out of hashes where it is not given: the study's calibration is no parameter of a recipe.
    calibration: CalibrationSpec | None = Field(default=None, exclude_if=lambda own: own is None)

    @model_validator(mode="after")
    def _reads_what_it_is_given(self) -> Self:
        if self.calibration is not None and not self.is_calibrated:
            raise ValueError(f"`calibration`: {self.name} reads no activations; leave it out")
        return self

    @classmethod
    def spelled(cls, match: re.Match[str]) -> dict[str, object]:
        """The fields that a name spells; by default the named groups of the pattern."""
        return {key: value for key, value in match.groupdict().items() if value is not None}

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Tables of the dense model's statistics that the recipe reads."""
        return ()

    @property
    def is_calibrated(self) -> bool:
        """Whether the calibration tokens have a part in it."""
        return bool(self.needs)

    @property
    def changes_matrices(self) -> bool:
        """Whether weights of matrices change; where not, whole sublayers go, or nothing."""
        return False

    @property
    def parameters_json(self) -> str:
        """All parameters, without the name that somebody gave them, as canonical JSON."""
        return json.dumps(_without_names(self.model_dump(mode="json")), sort_keys=True)

    @property
    def hash(self) -> str:
        """SHA-256 of the parameters: two names for the same recipe share it."""
        return hashlib.sha256(self.parameters_json.encode()).hexdigest()


class MatrixRecipe(BaseRecipe):
    """A recipe that changes the layers' weight matrices one by one, layer after layer from the first.

    Attributes:
        modules: shell patterns (`*.mlp.*`, `*q_proj`) of the matrices' names that are included, or `attn` and `mlp`;
            none means every matrix of every layer. Head and embeddings are never among them.
        predecessors: what the layers before are while a layer's inputs are measured: already `pruned`, as the papers
            do, or `dense`. A recipe that reads no inputs takes no notice.
        unreached: what becomes of a matrix that no calibration token reached, such as an expert's: `refuse` it, or
            leave it `dense` and count it among the variant's facts (`matrices_unreached`).
    """

    modules: tuple[str, ...] = ()
    predecessors: Literal["pruned", "dense"] = "pruned"
    unreached: Literal["refuse", "dense"] = "refuse"

    @property
    def changes_matrices(self) -> bool:
        """They do."""
        return True

    @property
    def reads(self) -> Reads:
        """What it reads of every matrix's inputs."""
        return "nothing"

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """The table that saves it a pass over the tokens: moments with dense predecessors are known before."""
        return ("activation_stats",) if self.reads == "moments" and self.predecessors == "dense" else ()

    @property
    def is_calibrated(self) -> bool:
        """Whether the calibration tokens have a part in it."""
        return self.reads != "nothing" or super().is_calibrated


class MaskingRecipe(MatrixRecipe):
    """A recipe that sets weights to zero.

    Either `sparsity`, or `keep` and `block` (N:M), or one of `ratios` a layer.

    Attributes:
        sparsity: share of the weights that is set to zero, above 0 and below 1.
        keep: how many of every `block` consecutive inputs are kept.
        block: see `keep`.
        ratios: how the sparsity is shared out among the layers: `uniform`; `owl`, by each layer's outliers (Yin et
            al., 2310.05175); or one sparsity a layer, from the first.
        owl_m: a weight whose score is over this many times its layer's mean counts as an outlier.
        owl_lambda: the layers' sparsities stay within this distance of `sparsity`, and one of them reaches it.
    """

    sparsity: float | None = Field(default=None, gt=0, lt=1)
    keep: int | None = Field(default=None, ge=1)
    block: int | None = Field(default=None, ge=2, le=64)
    ratios: Literal["uniform", "owl"] | tuple[Annotated[float, Field(ge=0, lt=1)], ...] = "uniform"
    owl_m: float = Field(default=5.0, gt=0)
    owl_lambda: float = Field(default=0.08, gt=0, lt=1)

    @classmethod
    def spelled(cls, match: re.Match[str]) -> dict[str, object]:
        """Reads `-50` as a sparsity and `-2of4` as a pattern."""
        fields = dict(super().spelled(match))
        percent = fields.pop("percent", None)
        return fields if percent is None else fields | {"sparsity": float(str(percent)) / 100}

    @model_validator(mode="after")
    def _one_pattern(self) -> Self:
        return self.require_pattern()

    def require_pattern(self) -> Self:
        """Itself.

        Raises:
            ValueError: its pattern is not one of those above.
        """
        if isinstance(self.ratios, tuple):
            if self.keep is not None or self.sparsity is not None:
                raise ValueError("`ratios` gives one sparsity a layer; leave `sparsity`, `keep` and `block` out")
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
        """Input norms of the dense model, where the layers' outliers decide."""
        return ("activation_stats",) if self.ratios == "owl" else super().needs


def spelling(method: str, *, also_alone: bool = False) -> re.Pattern[str]:
    """The names of a masked recipe: `method-50`, `method-50-owl`, `method-2of4`; and `method` where it means one."""
    share = r"(?P<percent>[1-9]\d?(?:\.\d+)?)(?:-(?P<ratios>owl))?"
    pattern = rf"-(?:{share}|(?P<keep>\d+)of(?P<block>\d+))"
    return re.compile(rf"(?P<method>{method})(?:{pattern}){'?' if also_alone else ''}")


def _without_names(fields: object) -> object:
    if isinstance(fields, dict):
        return {key: _without_names(value) for key, value in fields.items() if key != "name"}
    return [_without_names(each) for each in fields] if isinstance(fields, list) else fields
