"""The input of a pruning method for one matrix."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.masks import Mask
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import MatrixRecipe


@dataclass(frozen=True)
class MatrixContext:
    """One matrix and its inputs.

    Attributes:
        name: the matrix's name.
        weight: its current weight, after earlier recipes of a composition, (outputs, inputs) in the model's dtype.
        dense: its weight before all pruning: in the dense model, or in the checkpoint at the start of a composition.
        mask: True if earlier recipes of a composition kept a weight; None if they masked nothing.
        inputs: moments of its inputs on the calibration tokens; None if the recipe reads none, or no token reached it.
        sparsity: share of the weights to set to zero; None for an N:M pattern and for recipes that mask nothing.
        facts: numbers and lists that methods report, by name; numbers are summed over the matrices.
    """

    name: str
    weight: Float[Tensor, "out in"]
    dense: Float[Tensor, "out in"]
    mask: Mask | None = None
    inputs: ActivationMoments | None = None
    sparsity: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def require_inputs(self, recipe: str) -> ActivationMoments:
        """Return the moments of its inputs; InputError if no calibration token reached it."""
        if self.inputs is None:
            raise InputError(
                f"recipe {recipe}: no calibration token reached {self.name}; raise calibration.sequences, "
                "leave it out with `modules`, or as it is with `unreached: dense`"
            )
        return self.inputs

    def add_fact(self, name: str, count: int) -> None:
        """Add a count to a fact."""
        self.facts[name] = self.facts.get(name, 0) + count


# The functions of recipes. Each module ends with those that it has.
Methods = dict[type[MatrixRecipe], Callable[[MatrixContext, Any], WeightDelta | None]]
